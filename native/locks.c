/* flock, and locks on bytes of a file (F_OFD_SETLK): both belong to the open file description, so a process that receives the descriptor holds the
   lock too. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#if defined(__linux__) && !defined(F_OFD_SETLK)
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

#define MAX_OFFSET 9007199254740991.0

napi_value fdb_try_lock(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, result;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  do result = flock(fd, LOCK_EX | LOCK_NB);
  while (result < 0 && errno == EINTR);
  if (result == 0) return fdb_bool_value(env, true);
  return errno == EWOULDBLOCK ? fdb_bool_value(env, false) : fdb_throw(env, errno, "flock");
}

napi_value fdb_open_lock_file(napi_env env, napi_callback_info info) {
  fdb_call call;
  char path[PATH_MAX];
  size_t length;
  int mode, fd;
  if (!fdb_enter(env, info, 2, &call) || !fdb_text(env, call.argv[0], "path", path, sizeof(path), &length) ||
      !fdb_int(env, call.argv[1], "mode", 0, 0777, &mode))
    return NULL;
  if (length >= sizeof(path)) return fdb_throw(env, ENAMETOOLONG, "open");
  if (strlen(path) != length) return fdb_throw_range(env, "path must not contain a NUL byte");
  do fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, (mode_t)mode);
  while (fd < 0 && errno == EINTR);
  return fd < 0 ? fdb_throw(env, errno, "open") : fdb_owned_value(call.self, fd);
}

/* Linux and macOS have these locks; without them the calls throw ENOSYS. */
#ifdef F_OFD_SETLK
/* Reads (fd, kind, start, length): the description of a lock on bytes of a file. */
static bool fdb_range(napi_env env, const fdb_call *call, int *fd, struct flock *lock) {
  double start, length;
  int kind;
  if (!fdb_fd(env, call->argv[0], "fd", fd) || !fdb_int(env, call->argv[1], "kind", 0, 2, &kind) ||
      !fdb_integer(env, call->argv[2], "start", 0, MAX_OFFSET, &start) ||
      !fdb_integer(env, call->argv[3], "length", 1, MAX_OFFSET, &length))
    return false;
  *lock = (struct flock){ .l_type = kind == 0 ? F_UNLCK : kind == 1 ? F_RDLCK : F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_start = (off_t)start,
                          .l_len = (off_t)length };
  return true;
}
#endif

napi_value fdb_lock_range(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 4, &call)) return NULL;
#ifdef F_OFD_SETLK
  struct flock lock;
  int fd, result;
  if (!fdb_range(env, &call, &fd, &lock)) return NULL;
  do result = fcntl(fd, F_OFD_SETLK, &lock);
  while (result < 0 && errno == EINTR);
  if (result == 0) return fdb_bool_value(env, true);
  return errno == EAGAIN || errno == EACCES ? fdb_bool_value(env, false) : fdb_throw(env, errno, "fcntl");
#else
  return fdb_throw(env, ENOSYS, "fcntl");
#endif
}

napi_value fdb_find_lock(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 4, &call)) return NULL;
#ifdef F_OFD_SETLK
  struct flock lock;
  int fd;
  if (!fdb_range(env, &call, &fd, &lock)) return NULL;
  if (fcntl(fd, F_OFD_GETLK, &lock) < 0) return fdb_throw(env, errno, "fcntl");
  if (lock.l_type == F_UNLCK) return fdb_null(env);
  napi_value range, numbers[2] = { fdb_int_value(env, lock.l_start),
                                   fdb_int_value(env, lock.l_len == 0 ? (int64_t)MAX_OFFSET : lock.l_start + lock.l_len) };
  if (napi_create_array_with_length(env, 2, &range) != napi_ok ||
      napi_set_element(env, range, 0, numbers[0]) != napi_ok || napi_set_element(env, range, 1, numbers[1]) != napi_ok)
    return NULL;
  return range;
#else
  return fdb_throw(env, ENOSYS, "fcntl");
#endif
}
