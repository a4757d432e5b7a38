/* epoll: reports which of many descriptors are ready, and reads from them in the same call. Linux only. */
#include "fdb.h"

#include <errno.h>

#define READABLE 1
#define WRITABLE 2
#define MOST_AT_ONCE 256
#define NOTHING_READ (-1)

#ifdef __linux__
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define REPORTED (EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP)

/* TCP descriptors are edge-triggered (EPOLLET), and are rearmed only if their data was not read completely. A level-triggered descriptor keeps its place in
   the kernel's queue, so its new data is read before older data of other descriptors: of 1,000 busy clients some wait twice as long as others. If a read
   returns fewer bytes than requested, all data was read, unless EPOLLRDHUP or EPOLLPRI report a FIN or an urgent byte after it (epoll(7), "Questions and
   answers", 9). Unix sockets stay level-triggered: a short read may only be the end of one message. */
static struct epoll_event interest(int fd, int what) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  bool once = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && (domain == AF_INET || domain == AF_INET6);
  uint32_t events = (what & READABLE ? EPOLLIN : 0) | (what & WRITABLE ? EPOLLOUT : 0);
  if (once) events |= EPOLLET | (what & READABLE ? EPOLLRDHUP | EPOLLPRI : 0);
  return (struct epoll_event){ .events = events, .data.u64 = (uint64_t)events << 32 | (uint32_t)fd };
}

/* Rearms an edge-triggered descriptor, so that the next epoll_wait() reports it if it is still ready. Ignores a descriptor that was removed from the set. */
static bool report_again(int epoll, const struct epoll_event *reported) {
  struct epoll_event event = { .events = (uint32_t)(reported->data.u64 >> 32), .data.u64 = reported->data.u64 };
  if (!(event.events & EPOLLET)) return true;
  return epoll_ctl(epoll, EPOLL_CTL_MOD, (int)(uint32_t)reported->data.u64, &event) == 0 || errno == ENOENT || errno == EBADF;
}

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
  /* Removes a descriptor from the set if no events are wanted, because epoll reports errors in any case. */
  int what = now == 0 ? EPOLL_CTL_DEL : before == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  struct epoll_event event = now == 0 ? (struct epoll_event){ 0 } : interest(fd, now);
  return epoll_ctl(epoll, what, fd, &event) < 0 ? fdb_throw(env, errno, "epoll_ctl") : fdb_undefined(env);
}

static bool typed_array(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type;
  return napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted;
}

/* Returns the number of bytes, NOTHING_READ, or -1 - errno. */
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
  int32_t *next = into;
  int reported = 0;
  for (int i = 0; i < count; i++) {
    uint32_t is = events[i].events;
    /* EPOLLPRI alone: an urgent byte, which is not reported. */
    if (!(is & REPORTED)) continue;
    /* Reports a broken descriptor as readable and writable: the caller's read or write returns the error. */
    uint32_t broken = is & (EPOLLERR | EPOLLHUP);
    int fd = (int)(uint32_t)events[i].data.u64;
    int32_t got = NOTHING_READ;
    if ((is & EPOLLIN) && (size_t)fd < known && ((uint8_t *)eager)[fd] != 0 && budget > 0) {
      got = read_ahead(fd, (uint8_t *)memory + (size_t)reported * (size_t)slot, (size_t)slot);
      if (got > 0) budget -= got;
    }
    bool all = is == EPOLLIN && got > 0 && got < slot;
    if (!all && !report_again(epoll, &events[i])) return fdb_throw(env, errno, "epoll_ctl");
    *next++ = fd;
    *next++ = (broken || (is & EPOLLIN) ? READABLE : 0) | (broken || (is & EPOLLOUT) ? WRITABLE : 0);
    *next++ = got;
    reported++;
  }
  return fdb_int_value(env, reported);
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
