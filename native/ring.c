/*
 * An io_uring of this thread's event loop, by plain system calls.
 *
 * JavaScript pushes submissions into memory that both sides see; they are handed to the kernel together when the loop is about
 * to sleep (uv_prepare), and what has ended is told to JavaScript in one call: there, for what ended at once, and when the ring's
 * descriptor becomes readable (uv_poll) for the rest.
 *
 *     control memory, little-endian words; N is the number of slots
 *       0  header       u32 tail (JavaScript's), head, ended, refused (ours), then unused up to 64 bytes
 *      64  submissions  N x { position f64, length f64, op u32, file u32, region u32, at u32, slot u32, flags u32 }
 *          ended        N x { slot u32, result i32 }
 *
 * Invariants
 *  - Nothing that JavaScript writes is trusted: file, region and slot are looked up in tables of ours, ranges are compared with
 *    the region's length. What is wrong ends with -EINVAL, or is counted as refused where even the slot is wrong.
 *  - A slot carries one submission at a time, and the completion queue has room for all slots, so it can't overflow.
 *  - A region is a Buffer that is referenced, and a file a descriptor that is duplicated, for as long as they are in the tables;
 *    neither leaves its table while a submission uses it. Memory that can be resized is no region. (Detaching a region's memory is
 *    the one thing left to the caller.)
 *  - The callback is never called inside one of the functions here, and can't end the ring that calls it.
 *  - When the environment ends, whatever is in flight is waited for: its memory is about to go.
 *  - Submissions that follow each other, in the order of pushing and on the file, are handed over as one call of several buffers;
 *    each still ends by itself. Where the call moved less, those it did not reach end with -EINTR, to be pushed again.
 *  - Before the loop sleeps it may look for what comes next, as long as ringLook said (native/linger.c).
 *  - A file on tmpfs or ramfs has no device to wait for: reads and writes of it are done in the hand-over itself, where a copy
 *    costs less than a submission, and what it leaves in the processor's cache is what is sent next; so is its fdatasync, which is
 *    nothing. What is known to be there is copied without a call (native/mapped.c). A hand-over does not stand still for long: after
 *    MAX_ROUND_BYTES the rest is for the next one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <uv.h>
#include "linger.h"
#include "mapped.h"
#include "orion.h"

#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif

/* IORING_REGISTER_IOWQ_MAX_WORKERS, from 5.15 on. */
enum { REGISTER_MAX_WORKERS = 19, MAX_WORKERS = 1024 };
enum { MAX_LOOK_MICROSECONDS = 1000, STAMP_MILLISECONDS = 1000 };

enum { OP_READ, OP_WRITE, OP_FDATASYNC, OP_FALLOCATE, OP_COUNT };
enum { HEADER_TAIL, HEADER_HEAD, HEADER_ENDED, HEADER_REFUSED };
enum { HEADER_BYTES = 64, SQ_ENTRIES = 256, MIN_SLOTS = 64, MAX_SLOTS = 32768, MAX_ROUNDS = 2 };
/* Longer transfers of memory files go to the kernel's own threads. */
enum { MAX_INLINE_BYTES = 1024 * 1024, MAX_ROUND_BYTES = 1024 * 1024, MAX_RUN_BYTES = 512 * 1024, MAX_RUN = 64 };
#define NONE UINT32_MAX

struct submission {
  double position, length;
  uint32_t op, file, region, at, slot, flags;
};
struct ended {
  uint32_t slot;
  int32_t result;
};
struct slot {
  bool busy;
  /* next: the one that was handed over together with this one, after it. */
  uint32_t file, region, length, next;
};
struct file {
  int fd; /* ours; -1: free */
  /* may_wait: a call on it can stop whoever makes it, so the kernel's threads make all of them. */
  bool in_memory, may_wait;
  uint32_t in_flight;
  /* Of a file in memory. */
  struct mapped mapped;
};
struct region {
  char *base; /* NULL: free */
  size_t size;
  napi_ref buffer;
  uint32_t in_flight;
};

struct ring {
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
  int fd;
  /* Holders of this struct: the loop's handles, and the control memory in JavaScript. */
  int holders, open_handles;
  bool closing, calling;
  uv_prepare_t prepare;
  uv_poll_t poll;
  uv_idle_t idle;
  uv_check_t check;
  /* Runs while a file in memory has been written to within a second. */
  uv_timer_t stamps;
  struct look look;

  uint32_t slots, in_flight, unsubmitted;
  /* The hand-over; copied in it; what mappings may still touch. */
  uint64_t round;
  size_t round_bytes, mapped_budget;
  size_t control_size;
  uint32_t *header;
  struct submission *submissions;
  struct ended *ended;
  struct slot *slot;
  /* For each slot one; those before iovecs_used are needed until the kernel has taken everything. */
  struct iovec *iovecs;
  uint32_t iovecs_used;
  struct file *files;
  uint32_t file_count;
  struct region *regions;
  uint32_t region_count;

  void *rings;
  size_t rings_size, sqes_size;
  struct io_uring_sqe *sqes;
  uint32_t *sq_head, *sq_tail, *sq_array, sq_mask;
  uint32_t *cq_head, *cq_tail, cq_mask;
  struct io_uring_cqe *cqes;
};

/* One ring for each environment. */
struct instance {
  struct ring *ring;
};

static int ring_enter(int fd, unsigned submit, unsigned wait, unsigned flags) {
  return (int)syscall(__NR_io_uring_enter, fd, submit, wait, flags, NULL, 0);
}

static void ring_release(struct ring *ring) {
  if (--ring->holders > 0) return;
  if (ring->header != NULL) munmap(ring->header, ring->control_size);
  free(ring->slot);
  free(ring->iovecs);
  free(ring->files);
  free(ring->regions);
  free(ring);
}

/* ---- the kernel's side: mapping, handing over, reaping ---- */

static void unmap_rings(struct ring *ring) {
  if (ring->rings != NULL) munmap(ring->rings, ring->rings_size);
  if (ring->sqes != NULL) munmap(ring->sqes, ring->sqes_size);
  if (ring->fd >= 0) close(ring->fd);
  ring->rings = NULL;
  ring->sqes = NULL;
  ring->fd = -1;
}

/* Whether the kernel knows the operations that are used; those came with 5.6. */
static bool knows_operations(int fd) {
  static const int needed[] = {IORING_OP_READ,  IORING_OP_WRITE, IORING_OP_READV,
                               IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
  union {
    struct io_uring_probe probe;
    char bytes[sizeof(struct io_uring_probe) + 256 * sizeof(struct io_uring_probe_op)];
  } answer;
  memset(&answer, 0, sizeof answer);
  if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_PROBE, &answer, 256) < 0) return false;
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    if (needed[i] > answer.probe.last_op || !(answer.probe.ops[needed[i]].flags & IO_URING_OP_SUPPORTED)) return false;
  }
  return true;
}

/*
 * What can't be done without waiting, such as writes through a file system, is done by kernel threads, by default at most four for
 * each core. A few requests to a device that hangs would take them all, so many more are allowed; they are made only while others wait.
 */
static void allow_workers(int fd) {
  uint32_t most[2] = {MAX_WORKERS, 0};
  /* Older kernels keep their limit. */
  (void)syscall(__NR_io_uring_register, fd, REGISTER_MAX_WORKERS, most, 2);
}

/* Makes the kernel's ring and maps it: 0 or an errno. */
static int map_rings(struct ring *ring) {
  static const unsigned wishes[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_COOP_TASKRUN, 0};
  const unsigned features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  struct io_uring_params params;
  size_t sq_size, cq_size;
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
    memset(&params, 0, sizeof params);
    params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | wishes[i];
    params.cq_entries = ring->slots;
    ring->fd = (int)syscall(__NR_io_uring_setup, ring->slots < SQ_ENTRIES ? ring->slots : SQ_ENTRIES, &params);
    if (ring->fd >= 0 || errno != EINVAL) break;
  }
  if (ring->fd < 0) return errno;
  if ((params.features & features) != features || params.cq_entries < ring->slots || !knows_operations(ring->fd)) return ENOSYS;
  allow_workers(ring->fd);
  sq_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
  ring->sqes_size = params.sq_entries * sizeof(struct io_uring_sqe);
  ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
  if (ring->rings == MAP_FAILED) {
    ring->rings = NULL;
    return errno;
  }
  ring->sqes = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
  if (ring->sqes == MAP_FAILED) {
    ring->sqes = NULL;
    return errno;
  }
  ring->sq_head = (uint32_t *)((char *)ring->rings + params.sq_off.head);
  ring->sq_tail = (uint32_t *)((char *)ring->rings + params.sq_off.tail);
  ring->sq_array = (uint32_t *)((char *)ring->rings + params.sq_off.array);
  ring->sq_mask = params.sq_entries - 1;
  ring->cq_head = (uint32_t *)((char *)ring->rings + params.cq_off.head);
  ring->cq_tail = (uint32_t *)((char *)ring->rings + params.cq_off.tail);
  ring->cqes = (struct io_uring_cqe *)((char *)ring->rings + params.cq_off.cqes);
  ring->cq_mask = params.cq_entries - 1;
  return 0;
}

/* A slot's submission has ended: its file and region are let go, and JavaScript will be told. */
static void end_slot(struct ring *ring, uint32_t number, int32_t result) {
  struct slot *slot = &ring->slot[number];
  struct ended *ended = &ring->ended[ring->header[HEADER_ENDED]++ % ring->slots];
  if (slot->file != NONE) ring->files[slot->file].in_flight--;
  if (slot->region != NONE) ring->regions[slot->region].in_flight--;
  slot->busy = false;
  ring->in_flight--;
  ended->slot = number;
  ended->result = result;
}

/* The same for a slot and those that went with it, of which `result` bytes were moved in all. */
static void end_run(struct ring *ring, uint32_t number, int32_t result) {
  bool first = true;
  while (number != NONE) {
    const struct slot *slot = &ring->slot[number];
    const uint32_t next = slot->next;
    int32_t own = result;
    if (next != NONE || !first) {
      if (result > 0) own = (uint32_t)result < slot->length ? result : (int32_t)slot->length;
      /* Only of the first is it known that it failed, or that nothing is there. */
      else if (!first) own = -EINTR;
      if (result > 0) result -= own;
    }
    end_slot(ring, number, own);
    first = false;
    number = next;
  }
}

/* Checks a submission against the tables, and marks its slot, file and region busy. False: it has ended, or was refused. */
static bool admit(struct ring *ring, const struct submission *s) {
  struct slot *slot;
  bool moves = s->op == OP_READ || s->op == OP_WRITE, valid;
  if (s->slot >= ring->slots || ring->slot[s->slot].busy) {
    ring->header[HEADER_REFUSED]++;
    return false;
  }
  slot = &ring->slot[s->slot];
  slot->busy = true;
  slot->file = slot->region = slot->next = NONE;
  slot->length = moves && s->length >= 0 && s->length <= INT_MAX ? (uint32_t)s->length : 0;
  ring->in_flight++;
  valid = s->op < OP_COUNT && s->file < ring->file_count && ring->files[s->file].fd >= 0 && s->position >= 0 &&
          s->position <= MAX_SAFE_INTEGER && s->length >= 0 && s->length <= MAX_SAFE_INTEGER;
  if (valid && moves) {
    valid = s->region < ring->region_count && ring->regions[s->region].base != NULL && s->at <= ring->regions[s->region].size &&
            s->length <= (double)(ring->regions[s->region].size - s->at) && s->length <= INT_MAX;
  }
  if (!valid) {
    end_slot(ring, s->slot, -EINVAL);
    return false;
  }
  slot->file = s->file;
  ring->files[s->file].in_flight++;
  if (moves) {
    slot->region = s->region;
    ring->regions[s->region].in_flight++;
  }
  return true;
}

/* A submission that was admitted and those that follow it directly: what one call can do. */
struct run {
  struct submission first;
  uint32_t count, last_slot;
  size_t bytes;
  struct iovec *iovecs;
};

static struct iovec memory_of(const struct ring *ring, const struct submission *s) {
  return (struct iovec){ring->regions[s->region].base + s->at, (size_t)s->length};
}

/* Takes what was pushed after the run and continues it. */
static void extend_run(struct ring *ring, struct run *run) {
  uint32_t *header = ring->header;
  const struct submission *first = &run->first;
  const size_t most = ring->files[first->file].in_memory ? MAX_INLINE_BYTES : MAX_RUN_BYTES;
  if (first->op != OP_READ && first->op != OP_WRITE) return;
  run->iovecs = &ring->iovecs[ring->iovecs_used];
  run->iovecs[0] = memory_of(ring, first);
  while (header[HEADER_HEAD] != header[HEADER_TAIL] && run->count < MAX_RUN && ring->iovecs_used + run->count < ring->slots) {
    const struct submission next = ring->submissions[header[HEADER_HEAD] % ring->slots];
    if (next.op != first->op || next.file != first->file || next.flags != first->flags ||
        next.position != first->position + (double)run->bytes || !(next.length >= 0 && next.length <= (double)most) ||
        run->bytes + (size_t)next.length > most)
      return;
    header[HEADER_HEAD]++;
    if (!admit(ring, &next)) return;
    run->iovecs[run->count++] = memory_of(ring, &next);
    run->bytes += (size_t)next.length;
    ring->slot[run->last_slot].next = next.slot;
    run->last_slot = next.slot;
  }
}

static bool has_unstamped(const struct ring *ring) {
  for (uint32_t i = 0; i < ring->file_count; i++) {
    if (ring->files[i].fd >= 0 && mapped_behind(&ring->files[i].mapped)) return true;
  }
  return false;
}

static void on_stamps(uv_timer_t *handle) {
  struct ring *ring = handle->data;
  for (uint32_t i = 0; i < ring->file_count; i++) {
    if (ring->files[i].fd >= 0) mapped_tick(&ring->files[i].mapped);
  }
  if (!has_unstamped(ring)) uv_timer_stop(handle);
}

/* By a call: the bytes moved, or minus an errno. */
static int32_t call_in_memory(int fd, const struct transfer *transfer) {
  const struct iovec *iovecs = transfer->iovecs;
  const off_t position = (off_t)transfer->position;
  ssize_t count;
  do {
    if (transfer->count == 1 && !transfer->write) count = pread(fd, iovecs->iov_base, iovecs->iov_len, position);
    else if (transfer->count == 1) count = pwrite(fd, iovecs->iov_base, iovecs->iov_len, position);
    else if (!transfer->write) count = preadv(fd, iovecs, (int)transfer->count, position);
    else count = pwritev(fd, iovecs, (int)transfer->count, position);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : (int32_t)count;
}

static int32_t sync_in_memory(struct file *file) {
  int status;
  mapped_settle(&file->mapped);
  do status = fdatasync(file->fd);
  while (status < 0 && errno == EINTR);
  return status < 0 ? -errno : 0;
}

static int32_t move_in_memory(struct ring *ring, struct file *file, const struct run *run) {
  const struct transfer transfer = {run->first.op == OP_WRITE, (uint64_t)run->first.position, run->bytes, run->iovecs, run->count};
  ring->round_bytes += run->bytes;
  if (mapped_move(&file->mapped, &ring->mapped_budget, ring->round, &transfer)) {
    if (transfer.write && !uv_is_active((uv_handle_t *)&ring->stamps))
      uv_timer_start(&ring->stamps, on_stamps, STAMP_MILLISECONDS, STAMP_MILLISECONDS);
    return (int32_t)run->bytes;
  }
  const int32_t moved = call_in_memory(file->fd, &transfer);
  if (moved > 0) mapped_learn(&file->mapped, ring->mapped_budget, &transfer, (size_t)moved);
  return moved;
}

/* What a file in memory is asked for and can do at once: true if it was done. */
static bool done_in_memory(struct ring *ring, const struct run *run) {
  const struct submission *s = &run->first;
  struct file *file = &ring->files[s->file];
  if (!file->in_memory || run->bytes > MAX_INLINE_BYTES) return false;
  if (s->op == OP_FALLOCATE) {
    mapped_forget(&file->mapped, (uint64_t)s->position, (uint64_t)s->length);
    return false;
  }
  end_run(ring, s->slot, s->op == OP_FDATASYNC ? sync_in_memory(file) : move_in_memory(ring, file, run));
  return true;
}

static void fill_sqe(struct ring *ring, struct io_uring_sqe *sqe, const struct run *run) {
  const struct submission *s = &run->first;
  const bool moves = s->op == OP_READ || s->op == OP_WRITE;
  memset(sqe, 0, sizeof *sqe);
  sqe->fd = ring->files[s->file].fd;
  sqe->off = (uint64_t)s->position;
  sqe->user_data = s->slot;
  if (ring->files[s->file].may_wait) sqe->flags = IOSQE_ASYNC;
  if (moves) {
    sqe->rw_flags = s->op == OP_WRITE && s->flags != 0 ? RWF_DSYNC : 0;
    if (run->count == 1) {
      sqe->opcode = s->op == OP_READ ? IORING_OP_READ : IORING_OP_WRITE;
      sqe->addr = (uint64_t)(uintptr_t)run->iovecs[0].iov_base;
      sqe->len = (uint32_t)s->length;
    } else {
      sqe->opcode = s->op == OP_READ ? IORING_OP_READV : IORING_OP_WRITEV;
      sqe->addr = (uint64_t)(uintptr_t)run->iovecs;
      sqe->len = run->count;
      ring->iovecs_used += run->count;
    }
  } else if (s->op == OP_FDATASYNC) {
    sqe->opcode = IORING_OP_FSYNC;
    sqe->off = 0;
    sqe->fsync_flags = IORING_FSYNC_DATASYNC;
  } else {
    sqe->opcode = IORING_OP_FALLOCATE;
    sqe->addr = (uint64_t)s->length;
    sqe->len = s->flags;
  }
}

/* Hands everything that was pushed over to the kernel, as far as it takes it. */
static void ring_submit(struct ring *ring) {
  uint32_t *header = ring->header;
  ring->round++;
  for (;;) {
    uint32_t tail = *ring->sq_tail, head = __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);
    /* JavaScript's tail is no more trusted than the rest: there are never more submissions than slots. */
    if (header[HEADER_TAIL] - header[HEADER_HEAD] > ring->slots) {
      header[HEADER_REFUSED]++;
      header[HEADER_TAIL] = header[HEADER_HEAD];
    }
    if (ring->unsubmitted == 0) ring->iovecs_used = 0;
    while (header[HEADER_HEAD] != header[HEADER_TAIL] && tail - head <= ring->sq_mask && ring->iovecs_used < ring->slots &&
           ring->round_bytes < MAX_ROUND_BYTES) {
      /* A copy, so that what is checked is what is used. */
      struct run run = {.first = ring->submissions[header[HEADER_HEAD]++ % ring->slots], .count = 1};
      if (!admit(ring, &run.first)) continue;
      run.last_slot = run.first.slot;
      run.bytes = ring->slot[run.first.slot].length;
      extend_run(ring, &run);
      if (done_in_memory(ring, &run)) continue;
      fill_sqe(ring, &ring->sqes[tail & ring->sq_mask], &run);
      ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
      tail++;
      ring->unsubmitted++;
    }
    __atomic_store_n(ring->sq_tail, tail, __ATOMIC_RELEASE);
    if (ring->unsubmitted == 0) return;
    int taken = ring_enter(ring->fd, ring->unsubmitted, 0, 0);
    if (taken < 0 && errno == EINTR) continue;
    /* Out of memory for now: the next turn tries again. */
    if (taken <= 0) return;
    ring->unsubmitted -= (uint32_t)taken;
  }
}

static void ring_reap(struct ring *ring) {
  uint32_t head = *ring->cq_head, tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
  for (; head != tail && ring->header[HEADER_ENDED] < ring->slots; head++) {
    const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
    end_run(ring, (uint32_t)cqe->user_data, cqe->res);
  }
  __atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
}

static bool has_work(const struct ring *ring) {
  return ring->header[HEADER_TAIL] != ring->header[HEADER_HEAD] || ring->unsubmitted > 0;
}

/* ---- the loop's side ---- */

/* Tells JavaScript what has ended, which empties the list; an exception becomes an uncaught one. */
static void call_back(struct ring *ring) {
  napi_env env = ring->env;
  napi_handle_scope scope;
  napi_value callback, receiver, error;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  ring->calling = true;
  if (napi_get_reference_value(env, ring->callback, &callback) == napi_ok && napi_get_global(env, &receiver) == napi_ok &&
      napi_make_callback(env, ring->context, receiver, callback, 0, NULL, NULL) == napi_pending_exception &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok)
    napi_fatal_exception(env, error);
  ring->calling = false;
  ring->header[HEADER_ENDED] = 0;
  napi_close_handle_scope(env, scope);
}

static void on_poll(uv_poll_t *handle, int status, int events) {
  struct ring *ring = handle->data;
  (void)status;
  (void)events;
  ring_reap(ring);
  if (ring->header[HEADER_ENDED] > 0) call_back(ring);
}

/* Keeps the loop from sleeping while there is something left to hand over. */
static void on_idle(uv_idle_t *handle) { (void)handle; }

static void on_prepare(uv_prepare_t *handle) {
  struct ring *ring = handle->data;
  for (int round = 0; round < MAX_ROUNDS && has_work(ring); round++) {
    ring->round_bytes = 0;
    ring_submit(ring);
    ring_reap(ring);
    if (ring->header[HEADER_ENDED] == 0) break;
    call_back(ring);
    if (ring->closing) return;
  }
  if (has_work(ring)) {
    uv_idle_start(&ring->idle, on_idle);
    linger_not(&ring->look);
  } else {
    uv_idle_stop(&ring->idle);
    linger_before_sleep(&ring->look);
  }
}

static void on_check(uv_check_t *handle) {
  struct ring *ring = handle->data;
  linger_after_sleep(&ring->look);
}

static void on_handle_closed(uv_handle_t *handle) {
  struct ring *ring = handle->data;
  if (--ring->open_handles > 0) return;
  if (ring->cleanup != NULL) napi_remove_async_cleanup_hook(ring->cleanup);
  ring_release(ring);
}

static void drop_file(struct ring *ring, struct file *file) {
  if (file->in_memory) mapped_detach(&file->mapped, &ring->mapped_budget);
  close(file->fd);
  file->fd = -1;
}

/* Waits for what the kernel has, drops what it has not, and takes everything down. */
static void ring_close(struct ring *ring) {
  if (ring->closing) return;
  ring->closing = true;
  /* Admitted, but not taken by the kernel: it never will be. */
  for (uint32_t i = 0; i < ring->unsubmitted; i++) {
    const uint32_t first = (uint32_t)ring->sqes[(*ring->sq_tail - 1 - i) & ring->sq_mask].user_data;
    for (uint32_t number = first; number != NONE; number = ring->slot[number].next) ring->in_flight--;
  }
  while (ring->in_flight > 0) {
    ring->header[HEADER_ENDED] = 0;
    ring_reap(ring);
    if (ring->header[HEADER_ENDED] == 0 && ring_enter(ring->fd, 0, 1, IORING_ENTER_GETEVENTS) < 0 && errno != EINTR) break;
  }
  ring->header[HEADER_ENDED] = 0;
  ring->header[HEADER_TAIL] = ring->header[HEADER_HEAD];
  uv_close((uv_handle_t *)&ring->poll, on_handle_closed);
  uv_close((uv_handle_t *)&ring->prepare, on_handle_closed);
  uv_close((uv_handle_t *)&ring->idle, on_handle_closed);
  uv_close((uv_handle_t *)&ring->check, on_handle_closed);
  uv_close((uv_handle_t *)&ring->stamps, on_handle_closed);
  unmap_rings(ring);
  for (uint32_t i = 0; i < ring->file_count; i++) {
    if (ring->files[i].fd >= 0) drop_file(ring, &ring->files[i]);
  }
  for (uint32_t i = 0; i < ring->region_count; i++) {
    if (ring->regions[i].buffer != NULL) napi_delete_reference(ring->env, ring->regions[i].buffer);
    ring->regions[i].buffer = NULL;
    ring->regions[i].base = NULL;
  }
  napi_delete_reference(ring->env, ring->callback);
  napi_async_destroy(ring->env, ring->context);
}

static void forget_ring(napi_env env, struct ring *ring) {
  struct instance *instance;
  if (napi_get_instance_data(env, (void **)&instance) == napi_ok && instance != NULL && instance->ring == ring) instance->ring = NULL;
}

static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data) {
  struct ring *ring = data;
  ring->cleanup = handle;
  forget_ring(ring->env, ring);
  ring_close(ring);
}

/* ---- JavaScript's side ---- */

/* The open ring, or NULL with an exception. */
static struct ring *take_ring(napi_env env) {
  struct instance *instance;
  if (napi_get_instance_data(env, (void **)&instance) == napi_ok && instance->ring != NULL) return instance->ring;
  napi_throw_error(env, "ERR_RING_CLOSED", "no ring is open");
  return NULL;
}

static void on_control_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  ring_release(hint);
}

static int map_control(struct ring *ring) {
  size_t bytes = HEADER_BYTES + ring->slots * (sizeof(struct submission) + sizeof(struct ended));
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return errno;
  ring->control_size = bytes;
  ring->header = memory;
  ring->submissions = (struct submission *)((char *)memory + HEADER_BYTES);
  ring->ended = (struct ended *)(ring->submissions + ring->slots);
  ring->slot = calloc(ring->slots, sizeof *ring->slot);
  ring->iovecs = calloc(ring->slots, sizeof *ring->iovecs);
  return ring->slot == NULL || ring->iovecs == NULL ? ENOMEM : 0;
}

/* Starts the loop's handles, none of which keeps the loop alive by itself. */
static int start_handles(struct ring *ring) {
  uv_loop_t *loop;
  if (napi_get_uv_event_loop(ring->env, &loop) != napi_ok) return ENOSYS;
  int status = uv_poll_init(loop, &ring->poll, ring->fd);
  if (status < 0) return -status;
  uv_prepare_init(loop, &ring->prepare);
  uv_idle_init(loop, &ring->idle);
  uv_check_init(loop, &ring->check);
  uv_timer_init(loop, &ring->stamps);
  linger_begin(&ring->look, loop);
  ring->poll.data = ring->prepare.data = ring->idle.data = ring->check.data = ring->stamps.data = ring;
  ring->open_handles = 5;
  ring->holders++;
  uv_poll_start(&ring->poll, UV_READABLE, on_poll);
  uv_prepare_start(&ring->prepare, on_prepare);
  uv_check_start(&ring->check, on_check);
  uv_unref((uv_handle_t *)&ring->poll);
  uv_unref((uv_handle_t *)&ring->prepare);
  uv_unref((uv_handle_t *)&ring->idle);
  uv_unref((uv_handle_t *)&ring->check);
  uv_unref((uv_handle_t *)&ring->stamps);
  return 0;
}

/*
 * ringOpen(slots, callback): the control memory, as an ArrayBuffer, or an errno when there is no io_uring here. `callback` is
 * called without arguments after entries were added to `ended`, and reads them all. There is one ring at a time.
 */
static napi_value ring_open(napi_env env, napi_callback_info info) {
  napi_value arguments[2], name, control = NULL;
  napi_valuetype type;
  struct instance *instance;
  struct ring *ring;
  int64_t slots;
  int status;
  if (!take_arguments(env, info, 2, arguments) ||
      !take_integer(env, arguments[0], MIN_SLOTS, MAX_SLOTS, "slots must be a power of two from 64 to 32768", &slots))
    return NULL;
  if ((slots & (slots - 1)) != 0 || napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_function ||
      napi_get_instance_data(env, (void **)&instance) != napi_ok || instance == NULL || instance->ring != NULL) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "slots must be a power of two, callback a function, and no ring open");
    return NULL;
  }
  ring = calloc(1, sizeof *ring);
  if (ring == NULL) return make_integer(env, ENOMEM);
  ring->env = env;
  ring->fd = -1;
  ring->holders = 1;
  ring->slots = (uint32_t)slots;
  ring->mapped_budget = MAPPED_BUDGET;
  if ((status = map_control(ring)) != 0 || (status = map_rings(ring)) != 0 || (status = start_handles(ring)) != 0) {
    unmap_rings(ring);
    ring_release(ring);
    return make_integer(env, status);
  }
  /* From here on the ring is taken down by ring_close. */
  if (napi_create_reference(env, arguments[1], 1, &ring->callback) != napi_ok ||
      napi_create_string_utf8(env, "orion-lvm ring", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env, NULL, name, &ring->context) != napi_ok ||
      napi_create_external_arraybuffer(env, ring->header, ring->control_size, on_control_collected, ring, &control) != napi_ok) {
    ring->holders--;
    ring_close(ring);
    return make_integer(env, ENOMEM);
  }
  napi_add_async_cleanup_hook(env, on_environment_end, ring, &ring->cleanup);
  instance->ring = ring;
  return control;
}

/* ringClose(): waits for what is in flight, then ends the ring. An exception in its callback. */
static napi_value ring_end(napi_env env, napi_callback_info info) {
  struct ring *ring;
  if (!take_arguments(env, info, 0, NULL) || (ring = take_ring(env)) == NULL) return NULL;
  if (ring->calling) {
    napi_throw_error(env, "ERR_RING_CALLING", "the ring cannot be closed by its callback");
    return NULL;
  }
  forget_ring(env, ring);
  ring_close(ring);
  return NULL;
}

/* ringLook(microseconds): how long the loop looks for events before it sleeps, where that has been worth it; 0: never. */
static napi_value ring_look(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  int64_t microseconds;
  if (!take_arguments(env, info, 1, arguments) ||
      !take_integer(env, arguments[0], 0, MAX_LOOK_MICROSECONDS, "microseconds must be 0 to 1000", &microseconds) ||
      (ring = take_ring(env)) == NULL)
    return NULL;
  ring->look.longest = (uint64_t)microseconds * 1000;
  return NULL;
}

/* ringHold(on): whether the loop lives on for the ring's sake: true while anything is pushed or in flight. */
static napi_value ring_hold(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  bool on;
  if (!take_arguments(env, info, 1, arguments) || (ring = take_ring(env)) == NULL) return NULL;
  if (napi_get_value_bool(env, arguments[0], &on) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "on must be true or false");
    return NULL;
  }
  if (on) uv_ref((uv_handle_t *)&ring->poll);
  else uv_unref((uv_handle_t *)&ring->poll);
  return NULL;
}

static bool is_in_memory(int fd) {
  struct statfs system;
  struct stat stats;
  return fstat(fd, &stats) == 0 && S_ISREG(stats.st_mode) && fstatfs(fd, &system) == 0 &&
         ((uint32_t)system.f_type == TMPFS_MAGIC || (uint32_t)system.f_type == RAMFS_MAGIC);
}

/*
 * Whether the file system can't do anything without waiting. The kernel would try all the same where it can be polled, as files on
 * FUSE can, and its server may never answer. Reading past the end tells without I/O.
 */
static bool may_wait(int fd) {
  char byte;
  struct iovec piece = {&byte, 1};
  struct stat stats;
  if (fstat(fd, &stats) != 0 || !S_ISREG(stats.st_mode)) return false;
  return preadv2(fd, &piece, 1, stats.st_size, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
}

/* ringAddFile(fd): the file's number in the ring, which keeps a duplicate of it; or minus an errno. */
static napi_value ring_add_file(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  uint32_t i;
  int fd, own;
  if (!take_arguments(env, info, 1, arguments) || !take_fd(env, arguments[0], &fd) || (ring = take_ring(env)) == NULL) return NULL;
  for (i = 0; i < ring->file_count && ring->files[i].fd >= 0; i++) continue;
  if (i == ring->file_count) {
    uint32_t count = ring->file_count == 0 ? 16 : 2 * ring->file_count;
    struct file *files = realloc(ring->files, count * sizeof *files);
    if (files == NULL) return make_integer(env, -ENOMEM);
    for (uint32_t k = ring->file_count; k < count; k++) files[k] = (struct file){.fd = -1};
    ring->files = files;
    ring->file_count = count;
  }
  own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return make_integer(env, -errno);
  ring->files[i] = (struct file){.fd = own, .in_memory = is_in_memory(own), .may_wait = may_wait(own)};
  if (ring->files[i].in_memory) mapped_attach(&ring->files[i].mapped, own);
  return make_integer(env, i);
}

/* Whether a submission that was pushed and not looked at yet names the file. */
static bool is_pushed(const struct ring *ring, uint32_t file) {
  for (uint32_t i = ring->header[HEADER_HEAD]; i != ring->header[HEADER_TAIL] && i - ring->header[HEADER_HEAD] < ring->slots; i++) {
    if (ring->submissions[i % ring->slots].file == file) return true;
  }
  return false;
}

/* ringRemoveFile(file): 0, EBUSY while something of it is pushed or in flight, EBADF if there is none. */
static napi_value ring_remove_file(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  int64_t file;
  if (!take_arguments(env, info, 1, arguments) ||
      !take_integer(env, arguments[0], 0, UINT32_MAX, "file must be a file of the ring", &file) || (ring = take_ring(env)) == NULL)
    return NULL;
  if (file >= ring->file_count || ring->files[file].fd < 0) return make_integer(env, EBADF);
  if (ring->files[file].in_flight > 0 || is_pushed(ring, (uint32_t)file)) return make_integer(env, EBUSY);
  drop_file(ring, &ring->files[file]);
  return make_integer(env, 0);
}

/* Whether the memory of a view can become less, or go: nothing for the kernel to write to. Throws nothing. */
static bool is_resizable(napi_env env, napi_value view) {
  napi_value memory, resizable;
  size_t length, offset;
  void *base;
  bool is = true;
  return napi_get_typedarray_info(env, view, NULL, &length, &base, &memory, &offset) != napi_ok ||
         napi_get_named_property(env, memory, "resizable", &resizable) != napi_ok ||
         (napi_get_value_bool(env, resizable, &is) == napi_ok && is);
}

/* ringPin(buffer): the number of the region that the buffer is from now on, until it is unpinned; or minus an errno. */
static napi_value ring_pin(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  struct region *region;
  void *base;
  size_t size;
  uint32_t i;
  if (!take_arguments(env, info, 1, arguments) || (ring = take_ring(env)) == NULL) return NULL;
  if (napi_get_buffer_info(env, arguments[0], &base, &size) != napi_ok || base == NULL || size == 0 || size > UINT32_MAX ||
      is_resizable(env, arguments[0])) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "buffer must be a Buffer of 1 to 2^32-1 bytes, not resizable");
    return NULL;
  }
  for (i = 0; i < ring->region_count && ring->regions[i].base != NULL; i++) continue;
  if (i == ring->region_count) {
    uint32_t count = ring->region_count == 0 ? 32 : 2 * ring->region_count;
    struct region *regions = realloc(ring->regions, count * sizeof *regions);
    if (regions == NULL) return make_integer(env, -ENOMEM);
    memset(regions + ring->region_count, 0, (count - ring->region_count) * sizeof *regions);
    ring->regions = regions;
    ring->region_count = count;
  }
  region = &ring->regions[i];
  if (napi_create_reference(env, arguments[0], 1, &region->buffer) != napi_ok) return make_integer(env, -ENOMEM);
  region->base = base;
  region->size = size;
  region->in_flight = 0;
  return make_integer(env, i);
}

/* ringUnpin(region): 0, EBUSY while something in it is in flight, EINVAL if there is none. */
static napi_value ring_unpin(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct ring *ring;
  struct region *region;
  int64_t number;
  if (!take_arguments(env, info, 1, arguments) ||
      !take_integer(env, arguments[0], 0, UINT32_MAX, "region must be a region of the ring", &number) || (ring = take_ring(env)) == NULL)
    return NULL;
  if (number >= ring->region_count || ring->regions[number].base == NULL) return make_integer(env, EINVAL);
  region = &ring->regions[number];
  if (region->in_flight > 0) return make_integer(env, EBUSY);
  napi_delete_reference(env, region->buffer);
  region->buffer = NULL;
  region->base = NULL;
  return make_integer(env, 0);
}

static void on_instance_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  free(data);
}

napi_status define_ring(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"ringLook", NULL, ring_look, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringOpen", NULL, ring_open, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringClose", NULL, ring_end, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringHold", NULL, ring_hold, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringAddFile", NULL, ring_add_file, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringRemoveFile", NULL, ring_remove_file, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringPin", NULL, ring_pin, NULL, NULL, NULL, napi_enumerable, NULL},
      {"ringUnpin", NULL, ring_unpin, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  struct instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return napi_generic_failure;
  if (napi_set_instance_data(env, instance, on_instance_collected, NULL) != napi_ok) {
    free(instance);
    return napi_generic_failure;
  }
  return napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions);
}
