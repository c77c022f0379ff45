/*
 * Connected sockets that are read and written by one call each, into and from memory of ours, without a stream of Node's around
 * them: JavaScript is told in one call which sockets are ready, and asks for the rest.
 *
 *     ready list   u32 count, then for each socket: number << 3 | what (1 readable, 2 writable, 4 no longer watched: an error;
 *                  0: nothing, it was closed since). It is written for JavaScript's eyes, and never read.
 *
 * Invariants
 *  - Nothing waits here and no memory is kept: receive and send do what can be done at once, in a Buffer that the caller holds.
 *  - A socket is a duplicate of a descriptor, known by a number until it is closed; wrong numbers and ranges are exceptions.
 *  - What became ready in one turn of the loop is told together, after all events were looked at (uv_check); where the list is too
 *    short for that, in several calls, the first of them between events. libuv drops events of a socket that was closed meanwhile, and we
 *    drop its entries: what is said of a number is of the socket that has it.
 *  - A socket that is watched keeps the loop alive, as any connection does.
 *  - A unix socket whose client does not take a long answer at once gets SEND_BUFFER_BYTES: with what the system gives by default
 *    a reply of 1 MiB takes five wake-ups of both sides. TCP finds its own size.
 *  - When the environment ends, all that is open is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include "orion.h"

enum { READY_ENTRIES = 1023, MAX_STREAMS = 1 << 20 };
enum { LONG_BYTES = 128 * 1024, SEND_BUFFER_BYTES = 512 * 1024 };
enum { WATCH_READ = 1, WATCH_WRITE = 2, WATCH_LOST = 4 };

struct stream {
  uv_poll_t poll;
  struct streams *home;
  uint32_t number;
  int fd;
  bool may_widen;
};

/* The list as JavaScript sees it: gone when neither side has it any more. */
struct ready {
  int holders;
  uint32_t words[1 + READY_ENTRIES];
};

struct streams {
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
  uv_check_t check;
  uint32_t open_handles;
  bool opened, ending, calling;
  uint32_t count, entries[READY_ENTRIES];
  struct ready *ready;
  struct stream **streams; /* NULL: free */
  uint32_t capacity;
};

static void call_back(struct streams *home) {
  napi_env env = home->env;
  napi_handle_scope scope;
  napi_value callback, receiver, error;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  home->calling = true;
  home->ready->words[0] = home->count;
  memcpy(home->ready->words + 1, home->entries, home->count * sizeof *home->entries);
  if (napi_get_reference_value(env, home->callback, &callback) == napi_ok && napi_get_global(env, &receiver) == napi_ok &&
      napi_make_callback(env, home->context, receiver, callback, 0, NULL, NULL) == napi_pending_exception &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok)
    napi_fatal_exception(env, error);
  home->calling = false;
  home->count = home->ready->words[0] = 0;
  napi_close_handle_scope(env, scope);
}

static void on_check(uv_check_t *handle) {
  struct streams *home = handle->data;
  if (home->count > 0) call_back(home);
}

static void on_poll(uv_poll_t *handle, int status, int events) {
  const struct stream *stream = handle->data;
  struct streams *home = stream->home;
  uint32_t what = 0;
  if (status < 0) what = WATCH_READ | WATCH_WRITE | WATCH_LOST;
  if (events & UV_READABLE) what |= WATCH_READ;
  if (events & UV_WRITABLE) what |= WATCH_WRITE;
  if (home->count == READY_ENTRIES) call_back(home);
  /* It may have been closed there, and its number be another's. */
  if (uv_is_closing((uv_handle_t *)handle)) return;
  home->entries[home->count++] = stream->number << 3 | what;
}

static void release_ready(struct ready *ready) {
  if (ready != NULL && --ready->holders == 0) free(ready);
}

static void on_ready_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  release_ready(hint);
}

static void on_home_closed(struct streams *home) {
  if (--home->open_handles > 0 || !home->ending) return;
  release_ready(home->ready);
  if (home->cleanup != NULL) napi_remove_async_cleanup_hook(home->cleanup);
  free(home->streams);
  free(home);
}

static void on_stream_closed(uv_handle_t *handle) {
  struct stream *stream = handle->data;
  struct streams *home = stream->home;
  free(stream);
  on_home_closed(home);
}

static void on_check_closed(uv_handle_t *handle) { on_home_closed(handle->data); }

static void close_stream(struct stream *stream) {
  struct streams *home = stream->home;
  home->streams[stream->number] = NULL;
  /* Another socket may get the number before the list is looked at, or looked at to its end. */
  for (uint32_t i = 0; i < home->count; i++) {
    if (home->entries[i] >> 3 != stream->number) continue;
    home->entries[i] = stream->number << 3;
    if (home->calling) home->ready->words[1 + i] = home->entries[i];
  }
  uv_close((uv_handle_t *)&stream->poll, on_stream_closed);
  if (stream->fd >= 0) close(stream->fd);
}

static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data) {
  struct streams *home = data;
  home->cleanup = handle;
  home->ending = true;
  for (uint32_t i = 0; i < home->capacity; i++)
    if (home->streams[i] != NULL) close_stream(home->streams[i]);
  if (home->opened) {
    napi_delete_reference(home->env, home->callback);
    napi_async_destroy(home->env, home->context);
    uv_close((uv_handle_t *)&home->check, on_check_closed);
  } else {
    home->open_handles++;
    on_home_closed(home);
  }
}

/*
 * streamsOpen(callback): the ready list, as an ArrayBuffer. `callback` is called without arguments when there are entries, and
 * looks at them all. To be called once.
 */
static napi_value streams_open(napi_env env, napi_callback_info info) {
  napi_value arguments[1], name, memory;
  napi_valuetype type;
  struct streams *home;
  struct ready *ready;
  size_t count = 1;
  uv_loop_t *loop;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, (void **)&home) != napi_ok) return NULL;
  if (count < 1 || napi_typeof(env, arguments[0], &type) != napi_ok || type != napi_function || home->opened) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "callback must be a function, and nothing be open");
    return NULL;
  }
  ready = calloc(1, sizeof *ready);
  if (ready == NULL) {
    napi_throw_error(env, "ENOMEM", "out of memory");
    return NULL;
  }
  ready->holders = 1;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok ||
      napi_create_string_utf8(env, "orion-lvm sockets", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_reference(env, arguments[0], 1, &home->callback) != napi_ok ||
      napi_async_init(env, NULL, name, &home->context) != napi_ok ||
      napi_create_external_arraybuffer(env, ready->words, sizeof ready->words, on_ready_collected, ready, &memory) != napi_ok) {
    free(ready);
    return NULL;
  }
  ready->holders++;
  home->ready = ready;
  home->check.data = home;
  uv_check_init(loop, &home->check);
  uv_check_start(&home->check, on_check);
  uv_unref((uv_handle_t *)&home->check);
  home->open_handles++;
  home->opened = true;
  return memory;
}

/* The function's arguments, of which the first is the number of a socket; NULL with an exception. */
static struct stream *take_stream(napi_env env, napi_callback_info info, size_t wanted, napi_value *arguments) {
  struct streams *home;
  uint32_t number;
  size_t count = wanted;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, (void **)&home) != napi_ok) return NULL;
  if (count == wanted && napi_get_value_uint32(env, arguments[0], &number) == napi_ok && number < home->capacity &&
      home->streams[number] != NULL)
    return home->streams[number];
  napi_throw_type_error(env, "ERR_INVALID_ARG", "stream must be the number of an open socket");
  return NULL;
}

static bool make_room(struct streams *home, uint32_t *number) {
  for (uint32_t i = 0; i < home->capacity; i++) {
    *number = i;
    if (home->streams[i] == NULL) return true;
  }
  const uint32_t capacity = home->capacity == 0 ? 16 : 2 * home->capacity;
  struct stream **streams = capacity > MAX_STREAMS ? NULL : realloc(home->streams, capacity * sizeof *streams);
  if (streams == NULL) return false;
  memset(streams + home->capacity, 0, (capacity - home->capacity) * sizeof *streams);
  *number = home->capacity;
  home->streams = streams;
  home->capacity = capacity;
  return true;
}

/* streamAdd(fd): the number of a duplicate of the socket, which is not watched yet; or minus an errno. */
static napi_value stream_add(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct streams *home;
  struct stream *stream;
  size_t count = 1;
  uint32_t number;
  uv_loop_t *loop;
  int fd, own, status, domain = 0;
  socklen_t size = sizeof domain;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, (void **)&home) != napi_ok) return NULL;
  if (count < 1 || !home->opened) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "streamAdd wants a descriptor, after streamsOpen");
    return NULL;
  }
  if (!take_fd(env, arguments[0], &fd) || napi_get_uv_event_loop(env, &loop) != napi_ok) return NULL;
  if (!make_room(home, &number) || (stream = calloc(1, sizeof *stream)) == NULL) return make_integer(env, -ENOMEM);
  own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) {
    status = -errno;
    free(stream);
    return make_integer(env, status);
  }
  stream->home = home;
  stream->number = number;
  stream->fd = own;
  stream->may_widen = getsockopt(own, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
  stream->poll.data = stream;
  /* Makes it non-blocking, too. */
  status = uv_poll_init(loop, &stream->poll, own);
  if (status < 0) {
    close(own);
    free(stream);
    return make_integer(env, status);
  }
  home->streams[number] = stream;
  home->open_handles++;
  return make_integer(env, number);
}

/* streamWatch(stream, what): is told from now on, as long as it is so, when the socket is readable (1), writable (2); 0: nothing. */
static napi_value stream_watch(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  struct stream *stream = take_stream(env, info, 2, arguments);
  uint32_t what;
  int status;
  if (stream == NULL) return NULL;
  if (napi_get_value_uint32(env, arguments[1], &what) != napi_ok || what > (WATCH_READ | WATCH_WRITE)) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "what must be 0 to 3");
    return NULL;
  }
  if (what == 0) status = uv_poll_stop(&stream->poll);
  else status = uv_poll_start(&stream->poll, (what & WATCH_READ ? UV_READABLE : 0) | (what & WATCH_WRITE ? UV_WRITABLE : 0), on_poll);
  return make_integer(env, -status);
}

/* The part [at, at + length) of a Buffer. */
static bool take_range(napi_env env, const napi_value *arguments, char **base, size_t *bytes) {
  uint32_t at, length;
  void *start;
  size_t size;
  if (napi_get_buffer_info(env, arguments[0], &start, &size) == napi_ok &&
      napi_get_value_uint32(env, arguments[1], &at) == napi_ok && napi_get_value_uint32(env, arguments[2], &length) == napi_ok &&
      at <= size && length <= size - at && length > 0) {
    *base = (char *)start + at;
    *bytes = length;
    return true;
  }
  napi_throw_type_error(env, "ERR_INVALID_ARG", "buffer, at and length must name a part of a Buffer");
  return false;
}

/* streamReceive(stream, buffer, at, length): the bytes that were there, 0 at the end of the stream, or minus an errno. */
static napi_value stream_receive(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  const struct stream *stream = take_stream(env, info, 4, arguments);
  char *base;
  size_t bytes;
  ssize_t count;
  if (stream == NULL || !take_range(env, arguments + 1, &base, &bytes)) return NULL;
  do count = recv(stream->fd, base, bytes, MSG_DONTWAIT);
  while (count < 0 && errno == EINTR);
  return make_integer(env, count < 0 ? -errno : count);
}

static void widen(struct stream *stream) {
  static const int bytes = SEND_BUFFER_BYTES;
  stream->may_widen = false;
  /* It is sent all the same if that is refused. */
  (void)setsockopt(stream->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

/* streamSend(stream, buffer, at, length, more): the bytes taken, or minus an errno. `more`: the next call follows at once. */
static napi_value stream_send(napi_env env, napi_callback_info info) {
  napi_value arguments[5];
  struct stream *stream = take_stream(env, info, 5, arguments);
  char *base;
  size_t bytes;
  ssize_t count;
  bool more;
  if (stream == NULL || !take_range(env, arguments + 1, &base, &bytes)) return NULL;
  if (napi_get_value_bool(env, arguments[4], &more) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "more must be true or false");
    return NULL;
  }
  do count = send(stream->fd, base, bytes, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
  while (count < 0 && errno == EINTR);
  if (count < 0) return make_integer(env, -errno);
  if ((size_t)count < bytes && bytes >= LONG_BYTES && stream->may_widen) widen(stream);
  return make_integer(env, count);
}

/* streamShutdown(stream): nothing more will be sent. 0 or an errno. */
static napi_value stream_shutdown(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  const struct stream *stream = take_stream(env, info, 1, arguments);
  if (stream == NULL) return NULL;
  return make_integer(env, shutdown(stream->fd, SHUT_WR) == 0 ? 0 : errno);
}

/* streamClose(stream): its number may be another one's from now on; entries about it that are not looked at yet say nothing any more. */
static napi_value stream_close(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct stream *stream = take_stream(env, info, 1, arguments);
  if (stream != NULL) close_stream(stream);
  return NULL;
}

/* streamRelease(stream): its descriptor, which is the caller's to close, and nobody watches any more. */
static napi_value stream_release(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  struct stream *stream = take_stream(env, info, 1, arguments);
  int fd;
  if (stream == NULL) return NULL;
  fd = stream->fd;
  stream->fd = -1;
  close_stream(stream);
  return make_integer(env, fd);
}

napi_status define_stream(napi_env env, napi_value exports) {
  struct streams *home = calloc(1, sizeof *home);
  if (home == NULL) return napi_generic_failure;
  home->env = env;
  if (napi_add_async_cleanup_hook(env, on_environment_end, home, &home->cleanup) != napi_ok) {
    free(home);
    return napi_generic_failure;
  }
  const napi_property_descriptor functions[] = {
      {"streamsOpen", NULL, streams_open, NULL, NULL, NULL, napi_enumerable, home},
      {"streamAdd", NULL, stream_add, NULL, NULL, NULL, napi_enumerable, home},
      {"streamWatch", NULL, stream_watch, NULL, NULL, NULL, napi_enumerable, home},
      {"streamReceive", NULL, stream_receive, NULL, NULL, NULL, napi_enumerable, home},
      {"streamSend", NULL, stream_send, NULL, NULL, NULL, napi_enumerable, home},
      {"streamShutdown", NULL, stream_shutdown, NULL, NULL, NULL, napi_enumerable, home},
      {"streamRelease", NULL, stream_release, NULL, NULL, NULL, napi_enumerable, home},
      {"streamClose", NULL, stream_close, NULL, NULL, NULL, napi_enumerable, home},
  };
  return napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions);
}
