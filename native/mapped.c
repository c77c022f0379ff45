/*
 * Files in memory (tmpfs, ramfs), read and written as memory. A call spends more than half of its time on its way to the copy, so the
 * file is mapped, and what is known to be there is copied without one. All else goes by calls, as if there were no mapping.
 *
 * Invariants
 *  - Only pages that are known to exist are touched: a call has written to them, or has read something else than zeros. So a hole
 *    stays one when it is read, and a write that needs a page that is not to be had is told ENOSPC by its call. A page that somebody
 *    else has given back meanwhile comes into being again when it is read: that costs memory, and gives the same zeros.
 *  - Only whole pages within the file are touched. Its size is looked at in each hand-over, so that what lies behind a new end
 *    goes by calls, which read nothing there, and make the file longer.
 *  - Whatever happens to the file at the same moment, the process lives: a SIGBUS within a copy ends the copy, and a call does it
 *    instead. Any other SIGBUS meets whoever was there before us, as if we were not; from then on nothing is copied.
 *  - Touched memory counts as resident. It is counted in windows, which is how the kernel maps pages; what does not fit into the
 *    ring's budget goes by calls. Windows are given back when the file is.
 *  - A mapping's writes don't change the file's time of modification on tmpfs, so it is set here: with the first write after a
 *    second without any, each second after that, before a flush ends, and when the file is let go. Where that is forbidden, writes go by calls.
 *  - Nothing is allocated for a request. If there can be no mapping, everything goes by calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "mapped.h"

/* A fault maps what is there of the 64 KiB around it, or a huge page. */
enum { WINDOW_SHIFT = 16, MOST_WINDOW_SHIFT = 30, WORD_SHIFT = 6, WORD_BITS = 1 << WORD_SHIFT };
/* What is longer goes by calls. Room to grow is cheap: it is only addresses. */
#define MOST_BYTES ((uint64_t)1 << 40)
#define LEAST_BYTES ((uint64_t)1 << 26)

/* ---- SIGBUS ---- */

/* Where a copy of this thread goes on if the memory between start and end can't be had. */
struct guard {
  sigjmp_buf back;
  const char *start, *end;
};

/* In static memory of the thread: the handler may run in threads that have never copied anything, and must not allocate. */
static _Thread_local struct guard *volatile current_guard __attribute__((tls_model("initial-exec")));
static struct sigaction previous;
static volatile sig_atomic_t armed;
static pthread_once_t arm_once = PTHREAD_ONCE_INIT;

static void on_bus_error(int number, siginfo_t *info, void *context) {
  struct guard *guard = current_guard;
  const char *address = info->si_addr;
  (void)context;
  if (guard != NULL && info->si_code > 0 && address >= guard->start && address < guard->end) siglongjmp(guard->back, 1);
  /* Not ours. A fault happens again when this returns; what was sent has to be sent again. */
  armed = 0;
  sigaction(number, &previous, NULL);
  if (info->si_code <= 0 || info->si_code == BUS_MCEERR_AO) syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, info);
}

/* The library is never unloaded (native/build), so that the handler stays. */
static void arm(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_bus_error;
  /* Jumping out of the handler does not restore the mask, so the signal must not be in it. */
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previous) == 0) armed = 1;
}

/* Copies, unless the file's memory can't be had: then an unknown part is copied, and it gives false. */
static __attribute__((noinline)) bool copy(const struct mapped *mapped, const struct transfer *transfer) {
  struct guard guard = {.start = mapped->base, .end = mapped->base + mapped->bytes};
  char *at = mapped->base + transfer->position;
  if (sigsetjmp(guard.back, 0) != 0) {
    current_guard = NULL;
    return false;
  }
  current_guard = &guard;
  atomic_signal_fence(memory_order_seq_cst);
  /* A fault by reading maps the pages around it as well, one by writing does not. */
  if (transfer->write) (void)*(const volatile char *)at;
  for (const struct iovec *piece = transfer->iovecs; piece < transfer->iovecs + transfer->count; piece++) {
    if (transfer->write) memcpy(at, piece->iov_base, piece->iov_len);
    else memcpy(piece->iov_base, at, piece->iov_len);
    at += piece->iov_len;
  }
  atomic_signal_fence(memory_order_seq_cst);
  current_guard = NULL;
  return true;
}

/* ---- bits ---- */

/* The bits of a word that belong to [first, last], of which the word has some. */
static uint64_t bits_of(size_t word, uint64_t first, uint64_t last) {
  const unsigned from = word == first >> WORD_SHIFT ? first % WORD_BITS : 0;
  const unsigned to = word == last >> WORD_SHIFT ? last % WORD_BITS : WORD_BITS - 1;
  return (UINT64_MAX << from) & (UINT64_MAX >> (WORD_BITS - 1 - to));
}

static bool all_set(const uint64_t *words, uint64_t first, uint64_t last) {
  for (size_t word = first >> WORD_SHIFT; word <= last >> WORD_SHIFT; word++) {
    const uint64_t bits = bits_of(word, first, last);
    if ((words[word] & bits) != bits) return false;
  }
  return true;
}

static void set_all(uint64_t *words, uint64_t first, uint64_t last) {
  for (size_t word = first >> WORD_SHIFT; word <= last >> WORD_SHIFT; word++) words[word] |= bits_of(word, first, last);
}

/* Words without any stay as they are, so that memory which was never used does not come into being. */
static void clear_all(uint64_t *words, uint64_t first, uint64_t last) {
  for (size_t word = first >> WORD_SHIFT; word <= last >> WORD_SHIFT; word++) {
    const uint64_t bits = bits_of(word, first, last);
    if ((words[word] & bits) != 0) words[word] &= ~bits;
  }
}

/* ---- the mapping ---- */

/* Whether the file's time of modification could be set to now. */
static bool stamp(const struct mapped *mapped) {
  const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
  /* Who may write, but is not the owner, can only set both times. */
  return futimens(mapped->fd, times) == 0 || futimens(mapped->fd, NULL) == 0;
}

static void unmap(struct mapped *mapped, size_t *budget) {
  if (mapped->base == NULL) return;
  munmap(mapped->base, mapped->bytes);
  munmap(mapped->known, mapped->bits_bytes);
  mapped->base = NULL;
  mapped->bytes = mapped->end = 0;
  *budget += mapped->spent;
  mapped->spent = 0;
}

/* Addresses that start with a window, so that ours are the kernel's: NULL if there are none. */
static char *map_aligned(const struct mapped *mapped, uint64_t bytes, int protection) {
  const size_t window = (size_t)1 << mapped->window_shift;
  char *space = mmap(NULL, bytes + window, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *base;
  if (space == MAP_FAILED) return NULL;
  base = space + (-(uintptr_t)space & (window - 1));
  if (mmap(base, bytes, protection, MAP_SHARED | MAP_FIXED, mapped->fd, 0) == MAP_FAILED) {
    munmap(space, bytes + window);
    return NULL;
  }
  if (base > space) munmap(space, (size_t)(base - space));
  munmap(base + bytes, (size_t)(space + window - base));
  return base;
}

/* Maps a file of this size anew, with room to grow; what is known stays known. */
static void map(struct mapped *mapped, size_t *budget, const struct stat *stats) {
  struct mapped new = *mapped;
  const uint64_t size = (uint64_t)stats->st_size, old_words = (mapped->bytes >> mapped->page_shift) / WORD_BITS;
  uint64_t unit = LEAST_BYTES;
  size_t known_bytes, touched_bytes;
  mapped->refused = size;
  /* Where tmpfs has huge pages, it says so by its block size. */
  new.window_shift = WINDOW_SHIFT;
  while (new.window_shift < MOST_WINDOW_SHIFT && (int64_t)1 << new.window_shift < stats->st_blksize) new.window_shift++;
  if (unit < (uint64_t)1 << new.window_shift) unit = (uint64_t)1 << new.window_shift;
  new.bytes = (size + size / 2 + unit - 1) / unit * unit;
  if (new.bytes > MOST_BYTES) new.bytes = MOST_BYTES;
  known_bytes = (new.bytes >> new.page_shift) / 8;
  touched_bytes = ((new.bytes >> new.window_shift) / WORD_BITS + 1) * sizeof(uint64_t);
  new.bits_bytes = known_bytes + touched_bytes;
  new.known = mmap(NULL, new.bits_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (new.known == MAP_FAILED) return;
  new.touched = new.known + known_bytes / sizeof(uint64_t);
  new.base = new.writable ? map_aligned(&new, new.bytes, PROT_READ | PROT_WRITE) : NULL;
  if (new.base == NULL) {
    new.writable = false;
    new.base = map_aligned(&new, new.bytes, PROT_READ);
  }
  if (new.base == NULL) {
    munmap(new.known, new.bits_bytes);
    return;
  }
  /* What is forked has no use for it, and a core dump must not hold what is in volumes. */
  madvise(new.base, new.bytes, MADV_DONTFORK);
  madvise(new.base, new.bytes, MADV_DONTDUMP);
  for (uint64_t word = 0; word < old_words; word++) {
    if (mapped->known[word] != 0) new.known[word] = mapped->known[word];
  }
  unmap(mapped, budget);
  new.spent = 0;
  *mapped = new;
}

/*
 * Sees whether the size has changed, once in a hand-over. FIONREAD tells of the size less the position, modulo 2^32, in half of
 * the time of fstat; whatever changes that is worth a closer look. What it misses are whole pages: such a file may fault, or not
 * be used as far as it could.
 */
static void look(struct mapped *mapped, size_t *budget, uint64_t round) {
  struct stat stats;
  uint64_t size;
  int left;
  if (mapped->looked == round) return;
  mapped->looked = round;
  if (ioctl(mapped->fd, FIONREAD, &left) != 0) mapped->look_closer = true;
  else if (left != mapped->seen) mapped->look_closer = true;
  if (!mapped->look_closer) return;
  mapped->seen = left;
  mapped->look_closer = false;
  if (fstat(mapped->fd, &stats) != 0) stats.st_size = 0;
  if ((uint64_t)stats.st_size > mapped->bytes && (uint64_t)stats.st_size != mapped->refused && mapped->bytes < MOST_BYTES)
    map(mapped, budget, &stats);
  /* Nothing to map yet, or it can't be. */
  mapped->enabled = mapped->base != NULL || stats.st_size == 0;
  if (mapped->base == NULL) return;
  size = (uint64_t)stats.st_size < mapped->bytes ? (uint64_t)stats.st_size : mapped->bytes;
  size = size >> mapped->page_shift << mapped->page_shift;
  if (size < mapped->end) mapped_forget(mapped, size, mapped->end - size);
  mapped->end = size;
}

void mapped_attach(struct mapped *mapped, int fd) {
  const int flags = fcntl(fd, F_GETFL);
  const long page = sysconf(_SC_PAGESIZE);
  *mapped = (struct mapped){.fd = fd, .look_closer = true};
  if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY || page <= 0 || page > 1 << WINDOW_SHIFT) return;
  pthread_once(&arm_once, arm);
  while (1L << mapped->page_shift < page) mapped->page_shift++;
  /* What is written to the end, wherever that is, is nothing for a mapping. */
  mapped->writable = (flags & O_ACCMODE) == O_RDWR && (flags & O_APPEND) == 0;
  mapped->enabled = true;
}

void mapped_detach(struct mapped *mapped, size_t *budget) {
  mapped_settle(mapped);
  unmap(mapped, budget);
  *mapped = (struct mapped){.fd = -1};
}

/* Whether the budget has room for all windows of a transfer; if so they are touched from now on. */
static bool afford(struct mapped *mapped, size_t *budget, uint64_t position, size_t bytes) {
  const uint64_t first = position >> mapped->window_shift, last = (position + bytes - 1) >> mapped->window_shift;
  const size_t window_bytes = (size_t)1 << mapped->window_shift;
  size_t missing = 0;
  for (uint64_t window = first; window <= last; window++) {
    if (!all_set(mapped->touched, window, window)) missing += window_bytes;
  }
  if (missing == 0) return true;
  if (missing > *budget) return false;
  *budget -= missing;
  mapped->spent += missing;
  set_all(mapped->touched, first, last);
  return true;
}

bool mapped_move(struct mapped *mapped, size_t *budget, uint64_t round, const struct transfer *transfer) {
  const uint64_t position = transfer->position, end = position + transfer->bytes;
  if (!mapped->enabled || !armed || transfer->bytes == 0) return false;
  look(mapped, budget, round);
  if (end > mapped->end) {
    /* Perhaps it has grown by what the quick look does not see. */
    mapped->look_closer = mapped->end < MOST_BYTES;
    return false;
  }
  if (transfer->write && !mapped->writable) return false;
  if (!all_set(mapped->known, position >> mapped->page_shift, (end - 1) >> mapped->page_shift)) return false;
  if (!afford(mapped, budget, position, transfer->bytes)) return false;
  if (transfer->write) {
    if (mapped->stamp == STAMP_OLD && !stamp(mapped)) {
      mapped->writable = false;
      return false;
    }
    mapped->stamp = mapped->stamp == STAMP_OLD ? STAMP_RECENT : STAMP_BEHIND;
  }
  if (copy(mapped, transfer)) return true;
  mapped_forget(mapped, position, transfer->bytes);
  mapped->look_closer = true;
  return false;
}

static bool is_zero(const char *bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* A page exists if anything in it is not 0. */
static void learn_from_read(struct mapped *mapped, size_t budget, const struct transfer *transfer, size_t moved) {
  const uint64_t page_bytes = (uint64_t)1 << mapped->page_shift;
  uint64_t position = transfer->position;
  for (const struct iovec *piece = transfer->iovecs; moved > 0; piece++) {
    const char *at = piece->iov_base;
    size_t left = piece->iov_len < moved ? piece->iov_len : moved;
    moved -= left;
    while (left > 0) {
      const uint64_t page = position >> mapped->page_shift, window = position >> mapped->window_shift;
      size_t length = page_bytes - position % page_bytes;
      if (length > left) length = left;
      /* What could not be used is not worth knowing. */
      if (!all_set(mapped->known, page, page) && (budget >> mapped->window_shift > 0 || all_set(mapped->touched, window, window)) &&
          !is_zero(at, length))
        set_all(mapped->known, page, page);
      position += length;
      at += length;
      left -= length;
    }
  }
}

void mapped_learn(struct mapped *mapped, size_t budget, const struct transfer *transfer, size_t moved) {
  const uint64_t position = transfer->position;
  if (mapped->base == NULL || position >= mapped->bytes) return;
  if (moved > mapped->bytes - position) moved = mapped->bytes - position;
  if (moved == 0) return;
  if (transfer->write) set_all(mapped->known, position >> mapped->page_shift, (position + moved - 1) >> mapped->page_shift);
  else learn_from_read(mapped, budget, transfer, moved);
}

void mapped_forget(struct mapped *mapped, uint64_t position, uint64_t length) {
  if (mapped->base == NULL || position >= mapped->bytes || length == 0) return;
  if (length > mapped->bytes - position) length = mapped->bytes - position;
  clear_all(mapped->known, position >> mapped->page_shift, (position + length - 1) >> mapped->page_shift);
}

void mapped_settle(struct mapped *mapped) {
  if (mapped->stamp != STAMP_BEHIND) return;
  mapped->stamp = STAMP_RECENT;
  if (!stamp(mapped)) mapped->writable = false;
}

void mapped_tick(struct mapped *mapped) {
  if (mapped->stamp == STAMP_BEHIND) mapped_settle(mapped);
  else mapped->stamp = STAMP_OLD;
}
