/* Duplicates and closes descriptors, sets their flags, and changes their ownership. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/resource.h>
#include <sys/syscall.h>
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOSE_RANGE_CLOEXEC_FLAG 4u
#define WITHOUT_PROC (64 << 10) /* descriptors that are looked at if /proc does not list them */

/* Closes a descriptor, or sets CLOEXEC on it. */
static void leave(int fd, bool at_exec) {
  if (at_exec) fcntl(fd, F_SETFD, FD_CLOEXEC);
  else close(fd);
}

/* Does what close_range() does where a filter of system calls (seccomp) refuses it, in the table of this thread, which may be its own. Makes only
   async-signal-safe calls. */
static void leave_each(int from, bool at_exec) {
  _Alignas(fdb_entry) char entries[2048];
  int list = open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (list < 0) {
    struct rlimit limit;
    int end = getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > WITHOUT_PROC ? WITHOUT_PROC : (int)limit.rlim_cur;
    for (int fd = from; fd < end; fd++) leave(fd, at_exec);
    return;
  }
  for (long size; (size = syscall(SYS_getdents64, list, entries, sizeof(entries))) > 0;)
    for (long at = 0; at < size;) {
      const fdb_entry *next = (const fdb_entry *)(entries + at);
      int fd = 0;
      at += next->length;
      if (next->name[0] == '.') continue;
      for (const char *digit = next->name; *digit != 0; digit++) fd = fd * 10 + (*digit - '0');
      if (fd >= from && fd != list) leave(fd, at_exec);
    }
  close(list);
}
#endif

void fdb_close_at_exec(int from) {
#ifdef __linux__
  if (syscall(SYS_close_range, (unsigned)from, ~0u, CLOSE_RANGE_CLOEXEC_FLAG) < 0) leave_each(from, true);
#else
  (void)from;
#endif
}

#ifdef __linux__
void fdb_close_from(int from) {
  if (syscall(SYS_close_range, (unsigned)from, ~0u, 0) < 0) leave_each(from, false);
}
#endif

napi_value fdb_dup(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* from 3 on: the copy must not become stdin, stdout or stderr if one of these is closed */
  return copy < 0 ? fdb_throw(env, errno, "dup") : fdb_owned_value(call.self, copy);
}

typedef struct fdb_room {
  int count;
  napi_async_work work;
  napi_deferred deferred;
} fdb_room;

/* Grows the process's descriptor table to `count` entries at once. In a process with threads the kernel waits for all
   processors at each growth (synchronize_rcu). */
static void make_room(napi_env env, void *data) {
  (void)env;
  const fdb_room *room = data;
  int any = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (any < 0) return;
  int last = fcntl(any, F_DUPFD_CLOEXEC, room->count - 1); /* fails if `count` exceeds RLIMIT_NOFILE */
  if (last >= 0) close(last);
  close(any);
}

static void made_room(napi_env env, napi_status status, void *data) {
  (void)status;
  fdb_room *room = data;
  napi_value undefined;
  if (napi_get_undefined(env, &undefined) == napi_ok) napi_resolve_deferred(env, room->deferred, undefined);
  napi_delete_async_work(env, room->work);
  free(room);
}

/* The table grows in a thread of libuv's pool. Meanwhile other threads wait only if their new descriptor needs a larger table. */
napi_value fdb_make_room(napi_env env, napi_callback_info info) {
  fdb_call call;
  int count;
  if (!fdb_enter(env, info, 1, &call) || !fdb_int(env, call.argv[0], "count", 1, INT_MAX, &count)) return NULL;
  fdb_room *room = calloc(1, sizeof *room);
  if (room == NULL) return fdb_throw(env, ENOMEM, "makeRoom");
  room->count = count;
  napi_value name, promise;
  if (napi_create_string_utf8(env, "fdb:makeRoom", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, make_room, made_room, room, &room->work) != napi_ok) {
    free(room);
    return fdb_throw(env, ENOMEM, "makeRoom");
  }
  if (napi_create_promise(env, &room->deferred, &promise) != napi_ok ||
      napi_queue_async_work(env, room->work) != napi_ok) {
    napi_delete_async_work(env, room->work);
    free(room);
    return fdb_throw(env, ENOMEM, "makeRoom");
  }
  return promise;
}

napi_value fdb_close(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  fdb_disown(call.self, fd);
  int error = fdb_close_fd(fd);
  return error != 0 ? fdb_throw(env, error, "close") : fdb_undefined(env);
}

/* Closes all descriptors, then throws the first error. */
napi_value fdb_close_many(napi_env env, napi_callback_info info) {
  fdb_call call;
  uint32_t length, count;
  int first = 0, fds[FDB_SCRATCH];
  if (!fdb_enter(env, info, 1, &call) || !fdb_array_length(env, call.argv[0], "fds", &length)) return NULL;
  for (uint32_t from = 0; from < length; from += FDB_SCRATCH) {
    if (!fdb_copy_fds(call.self, call.argv[0], from, fds, &count)) return NULL;
    for (uint32_t i = 0; i < count; i++) {
      fdb_disown(call.self, fds[i]);
      int error = fdb_close_fd(fds[i]);
      if (first == 0) first = error;
    }
  }
  return first != 0 ? fdb_throw(env, first, "close") : fdb_undefined(env);
}

napi_value fdb_release(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  fdb_disown(call.self, fd);
  return fdb_undefined(env);
}

napi_value fdb_adopt(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  if (fcntl(fd, F_GETFD) < 0) return fdb_throw(env, errno, "fcntl");
  if (!fdb_reserve(call.self, fd)) return fdb_throw(env, ENOMEM, "realloc"); /* the caller keeps the open descriptor */
  fdb_own(call.self, fd);
  return fdb_undefined(env);
}

/* Arguments (fd, on): `on` sets the flag `raised` and clears `lowered`, otherwise the reverse. Keeps all other flags. */
static napi_value change_flags(napi_env env, napi_callback_info info, int get, int set, int raised, int lowered) {
  fdb_call call;
  int fd;
  bool on;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_bool(env, call.argv[1], "on", &on))
    return NULL;
  int flags = fcntl(fd, get);
  if (flags < 0 || fcntl(fd, set, (flags & ~(raised | lowered)) | (on ? raised : lowered)) < 0)
    return fdb_throw(env, errno, "fcntl");
  return fdb_undefined(env);
}

napi_value fdb_set_cloexec(napi_env env, napi_callback_info info) {
  return change_flags(env, info, F_GETFD, F_SETFD, FD_CLOEXEC, 0);
}

/* The flag belongs to the open file description, which other processes may share. */
napi_value fdb_set_blocking(napi_env env, napi_callback_info info) {
  return change_flags(env, info, F_GETFL, F_SETFL, 0, O_NONBLOCK);
}
