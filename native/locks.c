/* flock: the lock belongs to the open file description, so a process that receives the descriptor holds it too. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

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
