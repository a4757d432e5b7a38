/* inotify: detects that a path was removed, replaced or renamed. */
#include "fdb.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#ifdef __linux__
#include <sys/inotify.h>

/* Reports whether inotify cannot be used (its limit is reached, or seccomp refuses it): then the caller polls instead. */
static bool is_unavailable(int error) {
  return fdb_is_missing(error) || error == EMFILE || error == ENOSPC;
}
#endif

/*
 * Watches the inode of each path, not the entries of the folder, so that other files of the folder cause no events. IN_ATTRIB reports that a file has lost
 * a name. The folder is watched without IN_ATTRIB, which would also report changed modes of its files.
 */
napi_value fdb_watch_paths(napi_env env, napi_callback_info info) {
  fdb_call call;
  uint32_t count;
  if (!fdb_enter(env, info, 2, &call)) return NULL;
  if (napi_get_array_length(env, call.argv[1], &count) != napi_ok)
    return fdb_throw_type(env, "files must be an array");
  char path[PATH_MAX];
  size_t length;
  if (!fdb_text(env, call.argv[0], "folder", path, sizeof(path), &length)) return NULL;
#ifdef __linux__
  int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return is_unavailable(errno) ? fdb_null(env) : fdb_throw(env, errno, "inotify_init1");
  uint32_t mask = IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
  for (uint32_t i = 0;; i++) {
    if (length >= sizeof(path) || strlen(path) != length) errno = ENOENT;
    else if (inotify_add_watch(fd, path, mask) >= 0) errno = 0;
    if (is_unavailable(errno)) {
      fdb_close_fd(fd);
      return fdb_null(env);
    }
    /* Ignores other errors: the path does not exist, which the caller checks itself. */
    if (i == count) return fdb_owned_value(call.self, fd);
    napi_value file;
    if (napi_get_element(env, call.argv[1], i, &file) != napi_ok ||
        !fdb_text(env, file, "file", path, sizeof(path), &length)) {
      fdb_close_fd(fd);
      return NULL;
    }
    mask = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_DONT_FOLLOW;
  }
#else
  return fdb_null(env);
#endif
}
