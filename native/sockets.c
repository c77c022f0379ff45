/*
 * Sockets that Node cannot make: a connected pair, a listener for virtual machines (AF_VSOCK), and the standard streams of a
 * process that an inetd-like server started.
 *
 * Invariants
 *  - Descriptors that are made here are closed by exec and do not block.
 *  - Failures of the system are positive errnos, as results.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
/* Older ones of these headers need sys/socket.h, and don't say so. */
#include <linux/vm_sockets.h>
#include "orion.h"

static napi_value make_pair(napi_env env, int first, int second) {
  napi_value pair;
  if (napi_create_array_with_length(env, 2, &pair) == napi_ok &&
      napi_set_element(env, pair, 0, make_integer(env, first)) == napi_ok &&
      napi_set_element(env, pair, 1, make_integer(env, second)) == napi_ok)
    return pair;
  close(first);
  close(second);
  return NULL;
}

/* socketPair(): the descriptors of two unix stream sockets that are connected to each other, or an errno. */
static napi_value orion_socket_pair(napi_env env, napi_callback_info info) {
  int pair[2];
  (void)info;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return make_integer(env, errno);
  return make_pair(env, pair[0], pair[1]);
}

/*
 * takeStandardStreams(): the descriptors of what was standard input and output, out of the way of whoever writes to his
 * standard output: input is /dev/null from now on, and output is standard error. Or an errno.
 */
static napi_value orion_take_standard_streams(napi_env env, napi_callback_info info) {
  int input = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  int output = input < 0 ? -1 : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  int none = output < 0 ? -1 : open("/dev/null", O_RDONLY | O_CLOEXEC);
  (void)info;
  if (none < 0 || dup2(none, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    int error = errno;
    if (input >= 0) close(input);
    if (output >= 0) close(output);
    if (none >= 0) close(none);
    return make_integer(env, error);
  }
  close(none);
  return make_pair(env, input, output);
}

/* vsockListener(cid, port): { fd, port } of a bound stream socket that listens, as bound; or an errno: EAFNOSUPPORT where there is no AF_VSOCK. */
static napi_value orion_vsock_listener(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK};
  socklen_t size = sizeof address;
  int64_t cid, port;
  int fd, error;
  if (!take_arguments(env, info, 2, arguments) ||
      !take_integer(env, arguments[0], 0, UINT32_MAX, "cid must be a 32-bit number", &cid) ||
      !take_integer(env, arguments[1], 0, UINT32_MAX, "port must be a 32-bit number", &port))
    return NULL;
  address.svm_cid = (unsigned int)cid;
  address.svm_port = (unsigned int)port;
  fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return make_integer(env, errno);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, SOMAXCONN) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
    error = errno;
    close(fd);
    return make_integer(env, error);
  }
  if (napi_create_object(env, &result) == napi_ok &&
      napi_set_named_property(env, result, "fd", make_integer(env, fd)) == napi_ok &&
      napi_set_named_property(env, result, "port", make_integer(env, address.svm_port)) == napi_ok)
    return result;
  close(fd);
  return NULL;
}

/* vsockPeer(fd): { cid, port } of a vsock connection's other end, or an errno. */
static napi_value orion_vsock_peer(napi_env env, napi_callback_info info) {
  napi_value arguments[1], result;
  struct sockaddr_vm address = {0};
  socklen_t size = sizeof address;
  int fd;
  if (!take_arguments(env, info, 1, arguments) || !take_fd(env, arguments[0], &fd)) return NULL;
  if (getpeername(fd, (struct sockaddr *)&address, &size) != 0) return make_integer(env, errno);
  if (size < sizeof address || address.svm_family != AF_VSOCK) return make_integer(env, EAFNOSUPPORT);
  if (napi_create_object(env, &result) == napi_ok &&
      napi_set_named_property(env, result, "cid", make_integer(env, address.svm_cid)) == napi_ok &&
      napi_set_named_property(env, result, "port", make_integer(env, address.svm_port)) == napi_ok)
    return result;
  return NULL;
}

napi_status define_sockets(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"socketPair", NULL, orion_socket_pair, NULL, NULL, NULL, napi_enumerable, NULL},
      {"takeStandardStreams", NULL, orion_take_standard_streams, NULL, NULL, NULL, napi_enumerable, NULL},
      {"vsockListener", NULL, orion_vsock_listener, NULL, NULL, NULL, napi_enumerable, NULL},
      {"vsockPeer", NULL, orion_vsock_peer, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  return napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions);
}
