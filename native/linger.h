/* How the event loop falls asleep (linger.c). */
#ifndef LINGER_H
#define LINGER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct look {
  uv_loop_t *loop;
  /* When the loop began to wait, and how long it looks for events at most (0: never), in ns of uv_hrtime. */
  uint64_t begun, longest;
  /* Short waits that are to come before the next look, and that the next one in vain will cost. */
  uint32_t owed, next_owed;
  /* skipped: the loop did not wait for anything. */
  bool looked, skipped;
};

void linger_begin(struct look *look, uv_loop_t *loop);

/* To be called when nothing is left to do but to wait. */
void linger_before_sleep(struct look *look);

/* Instead, when there is something left to do. */
void linger_not(struct look *look);

void linger_after_sleep(struct look *look);

#endif
