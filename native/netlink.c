/*
 * Messages to the kernel over generic netlink, as bytes: what they say is src/native/netlink.ts's business.
 *
 * Invariants
 *  - A request has a socket of its own and runs in libuv's pool: the kernel may take its time. Its callback is called exactly once,
 *    never inside the call, with the answers up to the acknowledgement (a Buffer) or a positive errno.
 *  - A message that the caller gives is copied before the call returns.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "orion.h"

/* The kernel cuts its answers into datagrams of at most a page or two. */
enum { ANSWER_BYTES = 64 * 1024, MESSAGE_BYTES = 16 * 1024, ANSWER_SECONDS = 60 };

struct request {
  unsigned char *message, *answer;
  size_t length, answered;
  int error;
  napi_async_work work;
  napi_ref callback;
};

static int open_netlink(void) {
  int on = 1;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
  struct sockaddr_nl address = {.nl_family = AF_NETLINK};
  if (fd < 0) return -errno;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  /* Errors with words: kernels that have none give the number. */
  (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  return fd;
}

/* Receives datagrams until one is an acknowledgement or an error; 0 or an errno. */
static int receive_answer(int fd, struct request *request) {
  for (;;) {
    struct nlmsghdr header;
    ssize_t count = recv(fd, request->answer + request->answered, ANSWER_BYTES - request->answered, MSG_TRUNC);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN ? ETIMEDOUT : errno;
    if ((size_t)count > ANSWER_BYTES - request->answered) return EMSGSIZE;
    if ((size_t)count < sizeof header) return EBADMSG;
    memcpy(&header, request->answer + request->answered, sizeof header);
    request->answered += (size_t)count;
    if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) return 0;
  }
}

/* In the pool: no JavaScript here. */
static void request_execute(napi_env env, void *data) {
  struct request *request = data;
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  struct timeval patience = {.tv_sec = ANSWER_SECONDS};
  int fd = open_netlink();
  (void)env;
  if (fd < 0) {
    request->error = -fd;
    return;
  }
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
      sendto(fd, request->message, request->length, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
    request->error = errno;
  else
    request->error = receive_answer(fd, request);
  close(fd);
}

static void request_free(napi_env env, struct request *request) {
  if (request->callback != NULL) napi_delete_reference(env, request->callback);
  if (request->work != NULL) napi_delete_async_work(env, request->work);
  free(request->message);
  free(request->answer);
  free(request);
}

/* Back on the event loop's thread. */
static void request_complete(napi_env env, napi_status status, void *data) {
  struct request *request = data;
  napi_value callback, receiver, result = NULL;
  int error = status == napi_ok ? request->error : ECANCELED;
  bool ready = napi_get_reference_value(env, request->callback, &callback) == napi_ok &&
               napi_get_undefined(env, &receiver) == napi_ok;
  if (error != 0 || napi_create_buffer_copy(env, request->answered, request->answer, NULL, &result) != napi_ok)
    result = make_integer(env, error == 0 ? ENOMEM : error);
  request_free(env, request);
  if (ready && result != NULL) napi_call_function(env, receiver, callback, 1, &result, NULL);
}

/* netlinkRequest(message, callback): sends one message; callback(answers or an errno) follows. */
static napi_value orion_netlink_request(napi_env env, napi_callback_info info) {
  napi_value arguments[2], name;
  napi_valuetype type;
  struct request *request;
  size_t length;
  void *bytes;
  if (!take_arguments(env, info, 2, arguments)) return NULL;
  if (napi_get_buffer_info(env, arguments[0], &bytes, &length) != napi_ok || length < sizeof(struct nlmsghdr) ||
      length > MESSAGE_BYTES) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "message must be a Buffer that holds a netlink message");
    return NULL;
  }
  if (napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_function) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "callback must be a function");
    return NULL;
  }
  request = calloc(1, sizeof *request);
  if (request != NULL) {
    request->message = malloc(length);
    request->answer = malloc(ANSWER_BYTES);
  }
  if (request == NULL || request->message == NULL || request->answer == NULL) {
    if (request != NULL) request_free(env, request);
    napi_throw_error(env, "ENOMEM", "out of memory");
    return NULL;
  }
  memcpy(request->message, bytes, length);
  request->length = length;
  if (napi_create_reference(env, arguments[1], 1, &request->callback) != napi_ok ||
      napi_create_string_utf8(env, "orion-lvm", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, request_execute, request_complete, request, &request->work) != napi_ok ||
      napi_queue_async_work(env, request->work) != napi_ok) {
    request_free(env, request);
    napi_throw_error(env, "ERR_ASYNC_WORK", "cannot queue work");
  }
  return NULL;
}

/* netlinkJoin(group): a socket that receives what is told to a multicast group; or minus an errno. */
static napi_value orion_netlink_join(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  int64_t group;
  int fd, number;
  if (!take_arguments(env, info, 1, arguments) ||
      !take_integer(env, arguments[0], 1, INT32_MAX, "group must be a number", &group))
    return NULL;
  fd = open_netlink();
  if (fd < 0) return make_integer(env, fd);
  number = (int)group;
  if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &number, sizeof number) != 0) {
    int error = errno;
    close(fd);
    return make_integer(env, -error);
  }
  return make_integer(env, fd);
}

/* netlinkReceive(fd, buffer): the bytes of the next datagram, or minus an errno: EAGAIN if there is none yet. Never waits. */
static napi_value orion_netlink_receive(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  ssize_t count;
  size_t size;
  void *bytes;
  int fd;
  if (!take_arguments(env, info, 2, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  if (napi_get_buffer_info(env, arguments[1], &bytes, &size) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG", "buffer must be a Buffer");
    return NULL;
  }
  do count = recv(fd, bytes, size, MSG_DONTWAIT);
  while (count < 0 && errno == EINTR);
  return make_integer(env, count < 0 ? -errno : count);
}

napi_status define_netlink(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"netlinkRequest", NULL, orion_netlink_request, NULL, NULL, NULL, napi_enumerable, NULL},
      {"netlinkJoin", NULL, orion_netlink_join, NULL, NULL, NULL, napi_enumerable, NULL},
      {"netlinkReceive", NULL, orion_netlink_receive, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  return napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions);
}
