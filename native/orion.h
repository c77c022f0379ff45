/*
 * What the addon's files share: reading of arguments, and the other files' functions.
 */
#ifndef ORION_H
#define ORION_H

#include <stdbool.h>
#include <stdint.h>
#include <node_api.h>

#define MAX_SAFE_INTEGER 9007199254740991.0

/* Reads exactly `count` arguments, or throws. */
bool take_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values);

/* Reads an integer within [min, max], both exactly representable as a double, or throws. */
bool take_integer(napi_env env, napi_value value, double min, double max, const char *name, int64_t *result);

bool take_fd(napi_env env, napi_value value, int *fd);

napi_value make_integer(napi_env env, int64_t number);

/* Adds the ring's functions (native/ring.c) to the addon's exports. */
napi_status define_ring(napi_env env, napi_value exports);

/* Adds native/netlink.c's functions to the addon's exports. */
napi_status define_netlink(napi_env env, napi_value exports);

/* Adds native/sockets.c's functions to the addon's exports. */
napi_status define_sockets(napi_env env, napi_value exports);

/* Adds native/stream.c's functions to the addon's exports. */
napi_status define_stream(napi_env env, napi_value exports);

#endif
