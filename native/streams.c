/* Reads from a connected stream socket, and ends it with FIN or RST. */
#include "fdb.h"

#include <errno.h>
#include <sys/socket.h>

static napi_value receive(napi_env env, napi_callback_info info, int flags) {
  fdb_call call;
  fdb_bytes into;
  ssize_t got;
  int fd;
  if (!fdb_enter(env, info, 4, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) || !fdb_span(&call, 1, &into)) return NULL;
  /* For 0 bytes recv() returns 0, which also means the end of the stream. */
  if (into.length == 0) return fdb_throw_range(env, "length must be at least 1");
  do got = recv(fd, into.data, into.length, MSG_DONTWAIT | flags);
  while (got < 0 && errno == EINTR);
  if (got >= 0) return fdb_int_value(env, got);
  return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "recv");
}

napi_value fdb_receive(napi_env env, napi_callback_info info) {
  return receive(env, info, 0);
}

napi_value fdb_peek(napi_env env, napi_callback_info info) {
  return receive(env, info, MSG_PEEK);
}

napi_value fdb_shut_down(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  /* ENOTCONN: both directions have ended already. */
  if (shutdown(fd, SHUT_WR) < 0 && errno != ENOTCONN) return fdb_throw(env, errno, "shutdown");
  return fdb_undefined(env);
}

napi_value fdb_reset_at_close(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) < 0) return fdb_throw(env, errno, "setsockopt");
  return fdb_undefined(env);
}
