/* Moves bytes from one stream socket to another through a pipe, so that they are not copied to this process. Linux only. */
#include "fdb.h"

#include <errno.h>

#define NOTHING_READ (-1)
#define NOT_POSSIBLE (-2)

#ifdef __linux__
#include <fcntl.h>
#include <unistd.h>

/* Bytes of a pipe. The usual 64 KiB, of which the kernel keeps 16 pieces, are too few: a read takes one piece of the pipe for each packet. */
#define ROOM (256 * 1024)

napi_value fdb_open_pipe(napi_env env, napi_callback_info info) {
  fdb_call call;
  int ends[2];
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return fdb_throw(env, errno, "pipe2");
  /* Fails if the user's pipes have too much memory already: a smaller one is slower. */
  (void)fcntl(ends[1], F_SETPIPE_SZ, ROOM);
  return fdb_owned_pair(call.self, ends);
}

/* A socket that blocks would stop the event loop: MSG_DONTWAIT has no counterpart that holds for both of its ends in all kernels. */
static bool blocks(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 || (flags & O_NONBLOCK) == 0;
}

static ssize_t move(int from, int to, size_t most) {
  ssize_t moved;
  do moved = splice(from, NULL, to, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  while (moved < 0 && errno == EINTR);
  return moved;
}

/* Kernels and kinds of sockets without splice() refuse it before they move anything. */
static bool is_refused(int error) {
  return error == EINVAL || fdb_is_missing(error);
}

napi_value fdb_splice(napi_env env, napi_callback_info info) {
  fdb_call call;
  int from, to, out, in, most;
  size_t count;
  void *data;
  napi_typedarray_type type;
  if (!fdb_enter(env, info, 6, &call) || !fdb_fd(env, call.argv[0], "from", &from) || !fdb_fd(env, call.argv[1], "to", &to) ||
      !fdb_fd(env, call.argv[2], "out", &out) || !fdb_fd(env, call.argv[3], "in", &in) ||
      !fdb_int(env, call.argv[4], "most", 1, 1 << 30, &most))
    return NULL;
  if (napi_get_typedarray_info(env, call.argv[5], &type, &count, &data, NULL, NULL) != napi_ok ||
      type != napi_int32_array || count < 2)
    return fdb_throw_type(env, "into must be an Int32Array of 2");
  if (blocks(from) || blocks(to)) return fdb_int_value(env, NOT_POSSIBLE);
  ssize_t taken = move(from, in, (size_t)most);
  if (taken < 0) {
    if (errno == EAGAIN) return fdb_int_value(env, NOTHING_READ);
    return is_refused(errno) ? fdb_int_value(env, NOT_POSSIBLE) : fdb_throw(env, errno, "splice");
  }
  ssize_t left = taken;
  int32_t *into = data;
  into[1] = 0;
  while (left > 0) {
    ssize_t sent = move(out, to, (size_t)left);
    if (sent > 0) {
      left -= sent;
      continue;
    }
    /* A socket that refuses splice() gets the rest by send(). */
    if (sent < 0 && errno != EAGAIN && !is_refused(errno)) into[1] = errno;
    break;
  }
  into[0] = (int32_t)left;
  return fdb_int_value(env, taken);
}

napi_value fdb_read_pipe(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes into;
  int out;
  if (!fdb_enter(env, info, 4, &call) || !fdb_fd(env, call.argv[0], "out", &out) || !fdb_span(&call, 1, &into)) return NULL;
  size_t had = 0;
  while (had < into.length) {
    ssize_t got = read(out, into.data + had, into.length - had);
    if (got > 0) had += (size_t)got;
    else if (got == 0) return fdb_throw(env, EPIPE, "read");
    else if (errno != EINTR) return fdb_throw(env, errno, "read");
  }
  return fdb_undefined(env);
}
#else
napi_value fdb_open_pipe(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_throw(env, ENOSYS, "splice");
}

napi_value fdb_splice(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_throw(env, ENOSYS, "splice");
}

napi_value fdb_read_pipe(napi_env env, napi_callback_info info) {
  (void)info;
  return fdb_throw(env, ENOSYS, "splice");
}
#endif
