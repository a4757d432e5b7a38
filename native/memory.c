/* Memory files: creates, seals and reopens them, reads and writes at a position. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_GET_SEALS 1034
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 0x0001U
#define MFD_ALLOW_SEALING 0x0002U
#endif
#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#endif

#define MAX_SAFE 9007199254740991.0

/* Creates an unlinked file, for kernels without memfd. The file cannot be sealed. */
static int unnamed_file(void) {
  const char *folder = getenv("TMPDIR");
  char path[4096];
  int length = snprintf(path, sizeof(path), "%s/fd-broker-XXXXXX", folder == NULL || *folder == 0 ? "/tmp" : folder);
  if (length < 0 || (size_t)length >= sizeof(path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0) unlink(path);
  return fd;
}

#ifdef __linux__
/* Calls memfd_create by number: glibc has a function for it only since 2.27, and the prebuilt addon supports glibc 2.17. */
static int memory_file(const char *name, unsigned flags) { return (int)syscall(SYS_memfd_create, name, flags); }

/* Creates a file that can never be executed, if the kernel supports it (Linux 6.3). */
static int sealable_file(const char *name) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memory_file(name, flags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memory_file(name, flags);
  return fd;
}

/* Removes the rights of group and others: another user with a read-only descriptor could open the file for writing through /proc. */
static int own_file(int fd) {
  struct stat found;
  if (fstat(fd, &found) == 0 && fchmod(fd, found.st_mode & S_IRWXU) == 0) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}
#endif

napi_value fdb_memfd(napi_env env, napi_callback_info info) {
  fdb_call call;
  char name[256];
  size_t length;
  if (!fdb_enter(env, info, 1, &call) || !fdb_text(env, call.argv[0], "name", name, sizeof(name), &length))
    return NULL;
  if (length > 249 || strlen(name) != length)
    return fdb_throw_range(env, "name must have at most 249 bytes and no NUL, got %zu bytes", length);
#ifdef __linux__
  int fd = sealable_file(name);
  if (fd >= 0) fd = own_file(fd);
  if (fd >= 0) return fdb_owned_value(call.self, fd);
  if (!fdb_is_missing(errno)) return fdb_throw(env, errno, "memfd_create");
#endif
  int file = unnamed_file();
  return file < 0 ? fdb_throw(env, errno, "mkostemp") : fdb_owned_value(call.self, file);
}

/* Returns 0 or an errno. */
static int add_seals(int fd, int seals) {
#ifdef F_ADD_SEALS
  int result;
  do result = fcntl(fd, F_ADD_SEALS, seals);
  while (result < 0 && errno == EINTR);
  return result < 0 ? errno : 0;
#else
  (void)fd;
  (void)seals;
  return EINVAL;
#endif
}

napi_value fdb_add_seals(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, seals;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_int(env, call.argv[1], "seals", 0, 63, &seals))
    return NULL;
  int error = add_seals(fd, seals);
  return error != 0 ? fdb_throw(env, error, "fcntl") : fdb_undefined(env);
}

typedef struct {
  int fd, seals, error;
  napi_async_work work;
  napi_deferred deferred;
} sealing;

static void seal_aside(napi_env env, void *data) {
  (void)env;
  sealing *it = data;
  it->error = add_seals(it->fd, it->seals);
}

static void sealed_aside(napi_env env, napi_status status, void *data) {
  sealing *it = data;
  napi_value result;
  if (status != napi_ok) it->error = ECANCELED;
  if (it->error == 0) {
    if (napi_get_undefined(env, &result) == napi_ok) napi_resolve_deferred(env, it->deferred, result);
  } else {
    fdb_throw(env, it->error, "fcntl");
    if (napi_get_and_clear_last_exception(env, &result) == napi_ok) napi_reject_deferred(env, it->deferred, result);
  }
  napi_delete_async_work(env, it->work);
  free(it);
}

/* As addSeals(), in a thread of libuv's pool: while another process uses pages of the file, the kernel waits for 150 ms. */
napi_value fdb_add_seals_aside(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, seals;
  napi_value name, promise;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_int(env, call.argv[1], "seals", 0, 63, &seals))
    return NULL;
  sealing *it = calloc(1, sizeof *it);
  if (it == NULL) return fdb_throw(env, ENOMEM, "addSealsAside");
  *it = (sealing){ .fd = fd, .seals = seals };
  if (napi_create_string_utf8(env, "fdb:addSealsAside", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, seal_aside, sealed_aside, it, &it->work) != napi_ok) {
    free(it);
    return fdb_throw(env, ENOMEM, "addSealsAside");
  }
  if (napi_create_promise(env, &it->deferred, &promise) != napi_ok || napi_queue_async_work(env, it->work) != napi_ok) {
    napi_delete_async_work(env, it->work);
    free(it);
    return fdb_throw(env, ENOMEM, "addSealsAside");
  }
  return promise;
}

napi_value fdb_get_seals(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef F_GET_SEALS
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals >= 0) return fdb_int_value(env, seals);
  return errno == EINVAL ? fdb_null(env) : fdb_throw(env, errno, "fcntl");
#else
  return fcntl(fd, F_GETFD) < 0 ? fdb_throw(env, errno, "fcntl") : fdb_null(env);
#endif
}

napi_value fdb_reopen_read_only(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, copy;
  char path[40];
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef __linux__
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
#else
  snprintf(path, sizeof(path), "/dev/fd/%d", fd);
#endif
  /* O_NONBLOCK has no effect on files, but keeps a FIFO from blocking the event loop. */
  do copy = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (copy < 0 && errno == EINTR);
  if (copy >= 0) return fdb_owned_value(call.self, copy);
  int error = errno;
  if (fcntl(fd, F_GETFD) < 0) error = EBADF; /* the descriptor is not open: ENOENT would be misleading */
  return fdb_throw(env, error, "open");
}

/* If an error follows a partial transfer, returns the number of bytes transferred; the next call meets the error again. */
static napi_value transfer(napi_env env, napi_callback_info info, bool writes) {
  fdb_call call;
  fdb_bytes bytes;
  double at;
  int fd;
  size_t done = 0;
  if (!fdb_enter(env, info, 5, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_integer(env, call.argv[4], "position", 0, MAX_SAFE, &at) || !fdb_span(&call, 1, &bytes))
    return NULL;
  off_t position = (off_t)at;
  while (done < bytes.length) {
    ssize_t count = writes ? pwrite(fd, bytes.data + done, bytes.length - done, position + (off_t)done)
                           : pread(fd, bytes.data + done, bytes.length - done, position + (off_t)done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && done == 0) return fdb_throw(env, errno, writes ? "pwrite" : "pread");
    if (count <= 0) break;
    done += (size_t)count;
  }
  return fdb_int_value(env, (int64_t)done);
}

napi_value fdb_pread(napi_env env, napi_callback_info info) { return transfer(env, info, false); }

napi_value fdb_pwrite(napi_env env, napi_callback_info info) { return transfer(env, info, true); }

/* From now on each write to the open file, by any process that has it, appends in one step, whatever position it names (Linux only). */
napi_value fdb_append_always(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 || fcntl(fd, F_SETFL, flags | O_APPEND) < 0 ? fdb_throw(env, errno, "fcntl") : fdb_undefined(env);
}

/* Frees the memory of whole pages in `[0, length)`, which then read as zeros; the size stays. Returns false if the file has no holes. */
napi_value fdb_free_start(napi_env env, napi_callback_info info) {
  fdb_call call;
  double length;
  int fd, result = -1;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_integer(env, call.argv[1], "length", 1, MAX_SAFE, &length))
    return NULL;
#ifdef __linux__
  /* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */
  do result = fallocate(fd, 0x01 | 0x02, 0, (off_t)length);
  while (result < 0 && errno == EINTR);
#else
  errno = ENOSYS;
#endif
  if (result < 0 && errno != EOPNOTSUPP && !fdb_is_missing(errno)) return fdb_throw(env, errno, "fallocate");
  return fdb_bool_value(env, result == 0);
}

napi_value fdb_file_size(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  struct stat found;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  return fstat(fd, &found) < 0 ? fdb_throw(env, errno, "fstat") : fdb_int_value(env, found.st_size);
}
