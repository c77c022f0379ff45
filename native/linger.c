/*
 * How the event loop falls asleep. To sleep and be woken costs a processor more than the work of a small batch, and delays the
 * next one; on an idle machine it is most of the time of a request that is alone. So a loop whose batches follow each other
 * closely looks for events for a moment before it sleeps.
 *
 * Invariants
 *  - A loop looks only if what it waited for last came soon, and no longer than it was told: what comes rarely costs nothing.
 *  - A look in vain has to be made up for by short waits, twice as many as after the one before: where looking does not help it
 *    soon is the exception. A look that succeeds settles that.
 *  - A sleep is short up to twice the time of a look: being woken is part of it, and of a look it is not.
 *  - Whoever could run instead, such as the client, is let run.
 *  - Nothing else is put off by more than that time.
 */
#include <poll.h>
#include <sched.h>
#include "linger.h"

enum { MOST_SHORT_WAITS = 64 };

void linger_begin(struct look *look, uv_loop_t *loop) {
  look->loop = loop;
  look->begun = uv_hrtime();
  look->longest = 0;
  look->owed = look->next_owed = 1;
  look->looked = false;
  look->skipped = true;
}

void linger_not(struct look *look) {
  look->skipped = true;
}

void linger_before_sleep(struct look *look) {
  struct pollfd events = {.fd = uv_backend_fd(look->loop), .events = POLLIN};
  look->skipped = false;
  if (look->longest == 0) return;
  look->begun = uv_hrtime();
  look->looked = look->owed == 0 && uv_backend_timeout(look->loop) != 0;
  if (!look->looked) return;
  while (poll(&events, 1, 0) == 0 && uv_hrtime() - look->begun < look->longest) sched_yield();
}

void linger_after_sleep(struct look *look) {
  if (look->longest == 0 || look->skipped) return;
  const uint64_t waited = uv_hrtime() - look->begun;
  if (look->looked) {
    const bool in_vain = waited > look->longest;
    look->owed = in_vain ? look->next_owed : 0;
    if (!in_vain) look->next_owed = 1;
    else if (look->next_owed < MOST_SHORT_WAITS) look->next_owed *= 2;
  } else if (waited > 2 * look->longest) {
    if (look->owed == 0) look->owed = 1;
  } else if (look->owed > 0) {
    look->owed--;
  }
}
