/*
 * Files in memory (tmpfs, ramfs), read and written as memory: native/mapped.c says how, and what it promises.
 */
#ifndef MAPPED_H
#define MAPPED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* How many bytes of files one ring may touch as memory. */
#define MAPPED_BUDGET ((size_t)1 << 30)

enum stamp { STAMP_OLD, STAMP_RECENT, STAMP_BEHIND };

struct mapped {
  int fd; /* the ring's */
  /* NULL: not mapped, so everything goes by calls. */
  char *base;
  /* bytes: of the mapping, which may be longer than the file. end: as much as may be used of it; whole pages. */
  uint64_t bytes, end;
  /* The size for which a mapping could not be had. */
  uint64_t refused;
  /* By page: whether it is known to exist. By window: whether anything of it was touched. */
  uint64_t *known, *touched;
  size_t bits_bytes, spent;
  unsigned page_shift, window_shift;
  bool enabled, writable, look_closer;
  enum stamp stamp;
  /* The hand-over in which the size was last looked at, and what was seen. */
  uint64_t looked;
  int seen;
};

/* What is asked for: a read or write of so many bytes, in one piece of the file and several of memory. */
struct transfer {
  bool write;
  uint64_t position;
  size_t bytes;
  const struct iovec *iovecs;
  uint32_t count;
};

/* Begins with a file in memory, as long as `fd` is open. Whether it can be mapped shows later. */
void mapped_attach(struct mapped *mapped, int fd);

/* Gives back what the file has of the budget. */
void mapped_detach(struct mapped *mapped, size_t *budget);

/* Copies all of it: true. False: nothing counts as done, and a call has to do it. `round` is different in each hand-over. */
bool mapped_move(struct mapped *mapped, size_t *budget, uint64_t round, const struct transfer *transfer);

/* A call has moved the first `moved` bytes: which pages exist is learnt from that. */
void mapped_learn(struct mapped *mapped, size_t budget, const struct transfer *transfer, size_t moved);

/* A range is about to be given back. */
void mapped_forget(struct mapped *mapped, uint64_t position, uint64_t length);

/* Has the file's time of modification follow what was written, before that is said to be durable. */
void mapped_settle(struct mapped *mapped);

/* The same once a second while `mapped_behind`. */
void mapped_tick(struct mapped *mapped);

/* Whether the time of modification is, or was within a second, in need of care. */
static inline bool mapped_behind(const struct mapped *mapped) { return mapped->stamp != STAMP_OLD; }

#endif
