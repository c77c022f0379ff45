/*
 * What TypeScript cannot do on Linux: advisory locks, the identity of a unix socket's peer, reading what the page cache
 * holds without waiting for a device, giving space back in files and block devices without stopping the event loop, and memory
 * on whole pages. native/ring.c has the io_uring, native/netlink.c
 * messages to the kernel.
 *
 * Invariants
 *  - Every argument is checked for type and range; a wrong one throws a TypeError and nothing is called.
 *  - The system's failures are returned (or handed to the callback) as positive errnos, never thrown.
 *  - Nothing but flock blocks the calling thread: cached reads copy memory; fallocate, discard and the search for data run in libuv's pool. The file
 *    descriptor must stay open until their callback has been called, which happens exactly once and never inside the call.
 *  - Plain Node-API in C, no global state but an environment's own, so that one build serves every Node from 24 up and any number of threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "orion.h"

bool take_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, values, NULL, NULL) == napi_ok && given == count) return true;
  napi_throw_type_error(env, "ERR_INVALID_ARG", "wrong number of arguments");
  return false;
}

bool take_integer(napi_env env, napi_value value, double min, double max, const char *name, int64_t *result) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok && number >= min && number <= max &&
      (double)(int64_t)number == number) {
    *result = (int64_t)number;
    return true;
  }
  napi_throw_type_error(env, "ERR_INVALID_ARG", name);
  return false;
}

bool take_fd(napi_env env, napi_value value, int *fd) {
  int64_t number;
  if (!take_integer(env, value, 0, INT32_MAX, "fd must be a file descriptor", &number)) return false;
  *fd = (int)number;
  return true;
}

napi_value make_integer(napi_env env, int64_t number) {
  napi_value value = NULL;
  napi_create_int64(env, number, &value);
  return value;
}

/* flock(fd, operation): 0 or an errno. */
static napi_value orion_flock(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  int64_t operation;
  int fd;
  if (!take_arguments(env, info, 2, arguments) || !take_fd(env, arguments[0], &fd) ||
      !take_integer(env, arguments[1], 0, LOCK_SH | LOCK_EX | LOCK_NB | LOCK_UN, "operation must be LOCK_* bits", &operation))
    return NULL;
  return make_integer(env, flock(fd, (int)operation) == 0 ? 0 : errno);
}

/* peerCredentials(fd): { pid, uid, gid } of a unix socket's other end, or an errno. */
static napi_value orion_peer_credentials(napi_env env, napi_callback_info info) {
  napi_value arguments[1], result;
  struct ucred peer = {0};
  socklen_t size = sizeof peer;
  int fd;
  if (!take_arguments(env, info, 1, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return make_integer(env, errno);
  if (size != sizeof peer || peer.pid == 0) return make_integer(env, ENOTCONN);
  if (napi_create_object(env, &result) != napi_ok ||
      napi_set_named_property(env, result, "pid", make_integer(env, peer.pid)) != napi_ok ||
      napi_set_named_property(env, result, "uid", make_integer(env, peer.uid)) != napi_ok ||
      napi_set_named_property(env, result, "gid", make_integer(env, peer.gid)) != napi_ok)
    return NULL;
  return result;
}

/* peerGroups(fd): the supplementary groups of a unix socket's other end, as an array, or an errno. */
static napi_value orion_peer_groups(napi_env env, napi_callback_info info) {
  napi_value arguments[1], result = NULL;
  socklen_t size = 0;
  gid_t *groups;
  int fd;
  if (!take_arguments(env, info, 1, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  /* Without room the kernel says how much is needed; the groups of a connection never change. */
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) != 0 && errno != ERANGE) return make_integer(env, errno);
  groups = malloc(size + 1);
  if (groups == NULL) return make_integer(env, ENOMEM);
  if (size > 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) != 0) {
    int error = errno;
    free(groups);
    return make_integer(env, error);
  }
  if (napi_create_array_with_length(env, size / sizeof *groups, &result) != napi_ok) result = NULL;
  for (size_t i = 0; result != NULL && i < size / sizeof *groups; i++)
    if (napi_set_element(env, result, (uint32_t)i, make_integer(env, groups[i])) != napi_ok) result = NULL;
  free(groups);
  return result;
}

/*
 * readCached(fd, buffer, at, length, position): reads into buffer[at, at + length) what is in memory, without waiting for a
 * device. The number of bytes (fewer than asked where the cache ends; 0 at the end of the file), or minus an errno: EAGAIN
 * if nothing of it is cached, EOPNOTSUPP where the file system can't tell.
 */
static napi_value orion_read_cached(napi_env env, napi_callback_info info) {
  napi_value arguments[5];
  int64_t at, length, position;
  ssize_t count;
  size_t size;
  void *bytes;
  int fd;
  if (!take_arguments(env, info, 5, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  if (napi_get_buffer_info(env, arguments[1], &bytes, &size) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "buffer must be a Buffer");
    return NULL;
  }
  if (!take_integer(env, arguments[2], 0, (double)size, "at must be inside the buffer", &at) ||
      !take_integer(env, arguments[3], 1, (double)(size - (size_t)at), "length must fit in the buffer", &length) ||
      !take_integer(env, arguments[4], 0, MAX_SAFE_INTEGER, "position must be bytes", &position))
    return NULL;
  struct iovec piece = {(char *)bytes + at, (size_t)length};
  do count = preadv2(fd, &piece, 1, position, RWF_NOWAIT);
  while (count < 0 && errno == EINTR);
  return make_integer(env, count < 0 ? -errno : count);
}

/* Of one search; even, since data and holes alternate. */
#define MAX_RANGES 128

/* A call on a range of a file or device, on its way through libuv's pool. */
struct range_call {
  enum { CALL_FALLOCATE, CALL_DISCARD, CALL_DATA_RANGES } kind;
  int fd, mode, error;
  int64_t offset, length;
  /* CALL_DATA_RANGES: what was found. */
  double ranges[MAX_RANGES];
  size_t count;
  napi_async_work work;
  napi_ref callback;
};

/* Fills `ranges` with the lengths of data and holes in turn, data first; they end early when there are too many, or at the file's end. */
static int find_data_ranges(struct range_call *call) {
  off_t at = call->offset, end = call->offset + call->length;
  struct stat status;
  if (fstat(call->fd, &status) != 0) return -1;
  if (end > status.st_size) end = status.st_size;
  while (at < end && call->count < MAX_RANGES) {
    bool data = call->count % 2 == 0;
    off_t next = lseek(call->fd, at, data ? SEEK_HOLE : SEEK_DATA);
    if (next < 0 && errno != ENXIO) return -1;
    /* ENXIO: no data up to the end, or the file has just become shorter. */
    if (next < 0 || next > end) next = end;
    call->ranges[call->count++] = (double)(next - at);
    at = next;
  }
  return 0;
}

/* In the pool: no JavaScript here. */
static void range_call_execute(napi_env env, void *data) {
  struct range_call *call = data;
  int status;
  (void)env;
  do {
    if (call->kind == CALL_FALLOCATE) {
      status = fallocate(call->fd, call->mode, call->offset, call->length);
    } else if (call->kind == CALL_DATA_RANGES) {
      status = find_data_ranges(call);
    } else {
      uint64_t range[2] = {(uint64_t)call->offset, (uint64_t)call->length};
      status = ioctl(call->fd, BLKDISCARD, range);
    }
  } while (status != 0 && errno == EINTR);
  call->error = status == 0 ? 0 : errno;
}

static void range_call_free(napi_env env, struct range_call *call) {
  if (call->callback != NULL) napi_delete_reference(env, call->callback);
  if (call->work != NULL) napi_delete_async_work(env, call->work);
  free(call);
}

/* Back on the event loop's thread. An exception of the callback stays pending and becomes an uncaught one. */
static void range_call_complete(napi_env env, napi_status status, void *data) {
  struct range_call *call = data;
  napi_value callback, receiver, memory, arguments[2];
  size_t count = 1, bytes = call->count * sizeof *call->ranges;
  void *target;
  bool ready = napi_get_reference_value(env, call->callback, &callback) == napi_ok &&
               napi_get_undefined(env, &receiver) == napi_ok;
  arguments[0] = make_integer(env, status == napi_ok ? call->error : ECANCELED);
  ready = ready && arguments[0] != NULL;
  if (ready && call->kind == CALL_DATA_RANGES) {
    count = 2;
    ready = napi_create_arraybuffer(env, bytes, &target, &memory) == napi_ok &&
            napi_create_typedarray(env, napi_float64_array, call->count, memory, 0, &arguments[1]) == napi_ok;
    if (ready && bytes > 0) memcpy(target, call->ranges, bytes);
  }
  range_call_free(env, call);
  if (ready) napi_call_function(env, receiver, callback, count, arguments, NULL);
}

/* Takes over `arguments` = [offset, length, callback] and starts the call described by `kind`, `fd` and `mode`. */
static napi_value range_call_start(napi_env env, int kind, int fd, int mode, const napi_value *arguments) {
  int64_t offset, length;
  napi_valuetype type;
  napi_value name;
  struct range_call *call;
  if (!take_integer(env, arguments[0], 0, MAX_SAFE_INTEGER, "offset must be bytes", &offset) ||
      !take_integer(env, arguments[1], 1, MAX_SAFE_INTEGER, "length must be bytes", &length))
    return NULL;
  if (napi_typeof(env, arguments[2], &type) != napi_ok || type != napi_function) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "callback must be a function");
    return NULL;
  }
  call = calloc(1, sizeof *call);
  if (call == NULL) {
    napi_throw_error(env, "ENOMEM", "out of memory");
    return NULL;
  }
  call->kind = kind;
  call->fd = fd;
  call->mode = mode;
  call->offset = offset;
  call->length = length;
  if (napi_create_reference(env, arguments[2], 1, &call->callback) != napi_ok ||
      napi_create_string_utf8(env, "orion-lvm", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, range_call_execute, range_call_complete, call, &call->work) != napi_ok ||
      napi_queue_async_work(env, call->work) != napi_ok) {
    range_call_free(env, call);
    napi_throw_error(env, "ERR_ASYNC_WORK", "cannot queue work");
  }
  return NULL;
}

/* fallocate(fd, mode, offset, length, callback): callback(0 or an errno) follows. */
static napi_value orion_fallocate(napi_env env, napi_callback_info info) {
  napi_value arguments[5];
  int64_t mode;
  int fd;
  if (!take_arguments(env, info, 5, arguments) || !take_fd(env, arguments[0], &fd) ||
      !take_integer(env, arguments[1], 0, INT32_MAX, "mode must be FALLOC_FL_* bits", &mode))
    return NULL;
  return range_call_start(env, CALL_FALLOCATE, fd, (int)mode, arguments + 2);
}

/* blockDiscard(fd, offset, length, callback): BLKDISCARD; callback(0 or an errno) follows. */
static napi_value orion_block_discard(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  int fd;
  if (!take_arguments(env, info, 4, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  return range_call_start(env, CALL_DISCARD, fd, 0, arguments + 1);
}

/*
 * dataRanges(fd, offset, length, callback): where a file has data, as SEEK_DATA and SEEK_HOLE tell; callback(0 or an errno, a
 * Float64Array of the lengths of data and holes in turn, data first) follows. The file's own position, which changes, is nobody's.
 */
static napi_value orion_data_ranges(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  int fd;
  if (!take_arguments(env, info, 4, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  return range_call_start(env, CALL_DATA_RANGES, fd, 0, arguments + 1);
}

static void unmap_buffer(napi_env env, void *bytes, void *size) {
  (void)env;
  munmap(bytes, (size_t)(uintptr_t)size);
}

/*
 * Zeroed memory on pages of its own; NULL: there is none. A large piece begins where a huge page may, and asks for such: who reaches into
 * it at random otherwise spends a fifth of his time on finding the pages.
 */
static void *take_pages(size_t size) {
  const size_t huge = 2 << 20, page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t whole = (size + page - 1) & -page, spare = size < huge ? 0 : huge - page;
  char *bytes = mmap(NULL, whole + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (bytes == MAP_FAILED) return NULL;
  if (spare == 0) return bytes;
  size_t before = -(uintptr_t)bytes & (huge - 1);
  if (before > 0) munmap(bytes, before);
  if (before < spare) munmap(bytes + before + whole, spare - before);
  /* Kernels without huge pages refuse: then they are small ones. */
  (void)madvise(bytes + before, whole, MADV_HUGEPAGE);
  return bytes + before;
}

/* pageBuffer(bytes): a zeroed Buffer that starts on a page of its own, as O_DIRECT needs it. */
static napi_value orion_page_buffer(napi_env env, napi_callback_info info) {
  napi_value arguments[1], buffer;
  int64_t size;
  void *bytes;
  if (!take_arguments(env, info, 1, arguments) ||
      !take_integer(env, arguments[0], 1, (double)(1 << 30), "bytes must be 1 to 2^30", &size))
    return NULL;
  bytes = take_pages((size_t)size);
  if (bytes == NULL) {
    napi_throw_error(env, "ENOMEM", "out of memory");
    return NULL;
  }
  if (napi_create_external_buffer(env, (size_t)size, bytes, unmap_buffer, (void *)(uintptr_t)size, &buffer) == napi_ok) return buffer;
  munmap(bytes, (size_t)size);
  napi_throw_error(env, "ENOMEM", "out of memory");
  return NULL;
}

/*
 * directAlignment(fd): { memory, offset } in bytes as O_DIRECT demands them, both 0 where it is not possible; or an errno, ENOSYS
 * where the kernel (before 6.1) or the file system does not tell. struct statx by offsets: the C library may not know the fields.
 */
static napi_value orion_direct_alignment(napi_env env, napi_callback_info info) {
  enum { MASK_AT = 0x00, MEMORY_AT = 0x98, OFFSET_AT = 0x9c, DIOALIGN = 0x2000 };
  napi_value arguments[1], result;
  unsigned char answer[256] = {0};
  uint32_t mask, memory, offset;
  int fd;
  if (!take_arguments(env, info, 1, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  if (syscall(__NR_statx, fd, "", AT_EMPTY_PATH, DIOALIGN, answer) != 0) return make_integer(env, errno);
  memcpy(&mask, answer + MASK_AT, sizeof mask);
  memcpy(&memory, answer + MEMORY_AT, sizeof memory);
  memcpy(&offset, answer + OFFSET_AT, sizeof offset);
  if ((mask & DIOALIGN) == 0) return make_integer(env, ENOSYS);
  if (napi_create_object(env, &result) != napi_ok ||
      napi_set_named_property(env, result, "memory", make_integer(env, memory)) != napi_ok ||
      napi_set_named_property(env, result, "offset", make_integer(env, offset)) != napi_ok)
    return NULL;
  return result;
}

NAPI_MODULE_INIT() {
  const napi_property_descriptor functions[] = {
      {"flock", NULL, orion_flock, NULL, NULL, NULL, napi_enumerable, NULL},
      {"peerCredentials", NULL, orion_peer_credentials, NULL, NULL, NULL, napi_enumerable, NULL},
      {"peerGroups", NULL, orion_peer_groups, NULL, NULL, NULL, napi_enumerable, NULL},
      {"readCached", NULL, orion_read_cached, NULL, NULL, NULL, napi_enumerable, NULL},
      {"fallocate", NULL, orion_fallocate, NULL, NULL, NULL, napi_enumerable, NULL},
      {"blockDiscard", NULL, orion_block_discard, NULL, NULL, NULL, napi_enumerable, NULL},
      {"dataRanges", NULL, orion_data_ranges, NULL, NULL, NULL, napi_enumerable, NULL},
      {"pageBuffer", NULL, orion_page_buffer, NULL, NULL, NULL, napi_enumerable, NULL},
      {"directAlignment", NULL, orion_direct_alignment, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  if (napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) != napi_ok ||
      define_ring(env, exports) != napi_ok || define_netlink(env, exports) != napi_ok ||
      define_sockets(env, exports) != napi_ok || define_stream(env, exports) != napi_ok)
    return NULL;
  return exports;
}
