/* Many descriptors behind one (epoll): whoever polls that one asks which of them are ready. On other systems there is none. */
#include "fdb.h"

#include <errno.h>

#define READABLE 1
#define WRITABLE 2
#define MOST_AT_ONCE 256

#ifdef __linux__
#include <sys/epoll.h>

napi_value fdb_create_epoll(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  return epoll < 0 ? fdb_throw(env, errno, "epoll_create1") : fdb_owned_value(call.self, epoll);
}

napi_value fdb_set_epoll(napi_env env, napi_callback_info info) {
  fdb_call call;
  int epoll, fd, before, now;
  if (!fdb_enter(env, info, 4, &call) || !fdb_fd(env, call.argv[0], "epoll", &epoll) ||
      !fdb_fd(env, call.argv[1], "fd", &fd) ||
      !fdb_int(env, call.argv[2], "before", 0, READABLE | WRITABLE, &before) ||
      !fdb_int(env, call.argv[3], "now", 0, READABLE | WRITABLE, &now))
    return NULL;
  if (before == now) return fdb_undefined(env);
  struct epoll_event event = { .events = (now & READABLE ? EPOLLIN : 0) | (now & WRITABLE ? EPOLLOUT : 0), .data.fd = fd };
  /* Out of the set while nothing is wanted: errors are told of whatever is in it. */
  int what = now == 0 ? EPOLL_CTL_DEL : before == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  return epoll_ctl(epoll, what, fd, &event) < 0 ? fdb_throw(env, errno, "epoll_ctl") : fdb_undefined(env);
}

napi_value fdb_ask_epoll(napi_env env, napi_callback_info info) {
  fdb_call call;
  int epoll, count;
  napi_typedarray_type type;
  size_t length;
  void *data;
  struct epoll_event events[MOST_AT_ONCE];
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "epoll", &epoll)) return NULL;
  if (napi_get_typedarray_info(env, call.argv[1], &type, &length, &data, NULL, NULL) != napi_ok ||
      type != napi_int32_array)
    return fdb_throw_type(env, "into must be an Int32Array");
  size_t most = length / 2 < MOST_AT_ONCE ? length / 2 : MOST_AT_ONCE;
  if (most == 0) return fdb_throw_range(env, "into must have room for one descriptor, and what it is ready for");
  do count = epoll_wait(epoll, events, (int)most, 0);
  while (count < 0 && errno == EINTR);
  if (count < 0) return fdb_throw(env, errno, "epoll_wait");
  int32_t *into = data;
  for (int i = 0; i < count; i++) {
    /* What is broken says so to whoever reads from it, or writes to it. */
    uint32_t broken = events[i].events & (EPOLLERR | EPOLLHUP);
    *into++ = events[i].data.fd;
    *into++ = (broken || (events[i].events & EPOLLIN) ? READABLE : 0) |
              (broken || (events[i].events & EPOLLOUT) ? WRITABLE : 0);
  }
  return fdb_int_value(env, count);
}
#else
napi_value fdb_create_epoll(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_null(env);
}

napi_value fdb_set_epoll(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_throw(env, ENOSYS, "epoll_ctl");
}

napi_value fdb_ask_epoll(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_throw(env, ENOSYS, "epoll_wait");
}
#endif
