/* Many descriptors behind one (epoll): whoever polls that one asks which of them are ready, and reads from them in the same call. On other
   systems there is none. */
#include "fdb.h"

#include <errno.h>

#define READABLE 1
#define WRITABLE 2
#define MOST_AT_ONCE 256
#define NOTHING_READ (-1)

#ifdef __linux__
#include <sys/epoll.h>
#include <sys/socket.h>

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

static bool typed_array(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type;
  return napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted;
}

/* How many bytes came, NOTHING_READ, or what is wrong as -1 - errno. */
static int32_t read_ahead(int fd, uint8_t *into, size_t length) {
  ssize_t got;
  do got = recv(fd, into, length, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got >= 0) return (int32_t)got;
  return errno == EAGAIN || errno == EWOULDBLOCK ? NOTHING_READ : -1 - errno;
}

napi_value fdb_ask_epoll(napi_env env, napi_callback_info info) {
  fdb_call call;
  int epoll, slot, budget, count;
  size_t length, known, room;
  void *into, *eager, *memory;
  struct epoll_event events[MOST_AT_ONCE];
  if (!fdb_enter(env, info, 6, &call) || !fdb_fd(env, call.argv[0], "epoll", &epoll) ||
      !fdb_int(env, call.argv[4], "slot", 1, 1 << 30, &slot) ||
      !fdb_int(env, call.argv[5], "budget", 0, 1 << 30, &budget))
    return NULL;
  if (!typed_array(env, call.argv[1], napi_int32_array, &into, &length))
    return fdb_throw_type(env, "into must be an Int32Array");
  if (!typed_array(env, call.argv[2], napi_uint8_array, &eager, &known) ||
      !typed_array(env, call.argv[3], napi_uint8_array, &memory, &room))
    return fdb_throw_type(env, "eager and memory must be Uint8Arrays");
  size_t most = length / 3 < MOST_AT_ONCE ? length / 3 : MOST_AT_ONCE;
  if (room / (size_t)slot < most) most = room / (size_t)slot;
  if (most == 0) return fdb_throw_range(env, "into and memory must have room for one descriptor");
  do count = epoll_wait(epoll, events, (int)most, 0);
  while (count < 0 && errno == EINTR);
  if (count < 0) return fdb_throw(env, errno, "epoll_wait");
  int32_t *told = into;
  for (int i = 0; i < count; i++) {
    /* What is broken says so to whoever reads from it, or writes to it. */
    uint32_t broken = events[i].events & (EPOLLERR | EPOLLHUP);
    int fd = events[i].data.fd;
    int32_t got = NOTHING_READ;
    if ((events[i].events & EPOLLIN) && (size_t)fd < known && ((uint8_t *)eager)[fd] != 0 && budget > 0) {
      got = read_ahead(fd, (uint8_t *)memory + (size_t)i * (size_t)slot, (size_t)slot);
      if (got > 0) budget -= got;
    }
    *told++ = fd;
    *told++ = (broken || (events[i].events & EPOLLIN) ? READABLE : 0) |
              (broken || (events[i].events & EPOLLOUT) ? WRITABLE : 0);
    *told++ = got;
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
