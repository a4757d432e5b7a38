/* Identifies the process at the other end of a socket, and reports whether a process lives: credentials and pidfds. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#else
#include <sys/un.h>
#endif

napi_value fdb_peer_credentials(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  int64_t pid, uid, gid;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef __linux__
  struct ucred peer;
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return fdb_throw(env, errno, "getsockopt");
  pid = peer.pid, uid = peer.uid, gid = peer.gid;
#else
  uid_t peer_uid;
  gid_t peer_gid;
  pid_t peer_pid = 0;
  socklen_t size = sizeof(peer_pid);
  if (getpeereid(fd, &peer_uid, &peer_gid) < 0) return fdb_throw(env, errno, "getpeereid");
  if (getsockopt(fd, SOL_LOCAL, LOCAL_PEERPID, &peer_pid, &size) < 0) peer_pid = 0;
  pid = peer_pid, uid = peer_uid, gid = peer_gid;
#endif
  napi_value result;
  if (napi_create_object(env, &result) != napi_ok ||
      napi_set_named_property(env, result, "pid", fdb_int_value(env, pid)) != napi_ok ||
      napi_set_named_property(env, result, "uid", fdb_int_value(env, uid)) != napi_ok ||
      napi_set_named_property(env, result, "gid", fdb_int_value(env, gid)) != napi_ok)
    return NULL;
  return result;
}

napi_value fdb_peer_pidfd(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef __linux__
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) return fdb_owned_value(call.self, pidfd);
  return fdb_is_missing(errno) ? fdb_null(env) : fdb_throw(env, errno, "getsockopt");
#else
  return fdb_null(env);
#endif
}

/* Returns how many bytes the peer of a Unix stream socket has not read, plus the kernel's overhead for each message (unix_outq_len()). */
napi_value fdb_unread_bytes(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, bytes = 0;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef __linux__
  if (ioctl(fd, SIOCOUTQ, &bytes) < 0) return fdb_throw(env, errno, "ioctl");
#endif
  return fdb_int_value(env, bytes);
}

/* The offset of tcpi_bytes_acked (RFC 4898, tcpEStatsAppHCThruOctetsAcked; Linux 4.1), which the C library's headers lack. */
#define TCPI_BYTES_ACKED 120

napi_value fdb_acked_bytes(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef __linux__
  unsigned char tcp_info[TCPI_BYTES_ACKED + sizeof(uint64_t)];
  socklen_t size = sizeof(tcp_info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, tcp_info, &size) < 0)
    /* A Unix socket returns EOPNOTSUPP. */
    return errno == EOPNOTSUPP || fdb_is_missing(errno) ? fdb_null(env) : fdb_throw(env, errno, "getsockopt");
  if (size == sizeof(tcp_info)) {
    uint64_t bytes;
    napi_value value;
    memcpy(&bytes, tcp_info + TCPI_BYTES_ACKED, sizeof(bytes));
    return napi_create_double(env, (double)bytes, &value) == napi_ok ? value : NULL;
  }
#endif
  return fdb_null(env);
}

napi_value fdb_pidfd_open(napi_env env, napi_callback_info info) {
  fdb_call call;
  int pid;
  if (!fdb_enter(env, info, 1, &call) || !fdb_int(env, call.argv[0], "pid", 1, INT_MAX, &pid)) return NULL;
#ifdef __linux__
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd >= 0) return fdb_owned_value(call.self, fd);
  return fdb_is_missing(errno) ? fdb_null(env) : fdb_throw(env, errno, "pidfd_open");
#else
  return fdb_null(env);
#endif
}

napi_value fdb_pidfd_signal(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, signal;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "pidfd", &fd) ||
      !fdb_int(env, call.argv[1], "signal", 0, 64, &signal))
    return NULL;
#ifdef __linux__
  if (syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) == 0) return fdb_undefined(env);
  return fdb_throw(env, errno, "pidfd_send_signal");
#else
  return fdb_throw(env, ENOSYS, "pidfd_send_signal");
#endif
}

/* The kernel sets CLOEXEC on the new descriptor. */
napi_value fdb_pidfd_take(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, number;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "pidfd", &fd) ||
      !fdb_int(env, call.argv[1], "number", 0, INT_MAX, &number))
    return NULL;
#ifdef __linux__
  int taken;
  do taken = (int)syscall(SYS_pidfd_getfd, fd, number, 0);
  while (taken < 0 && errno == EINTR);
  return taken < 0 ? fdb_throw(env, errno, "pidfd_getfd") : fdb_owned_value(call.self, taken);
#else
  return fdb_throw(env, ENOSYS, "pidfd_getfd");
#endif
}

napi_value fdb_pidfd_pid(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  char path[64], content[1024];
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "pidfd", &fd)) return NULL;
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fdb_throw(env, errno == ENOENT ? EBADF : errno, "open");
  ssize_t size;
  do size = read(file, content, sizeof(content) - 1);
  while (size < 0 && errno == EINTR);
  int error = errno;
  close(file);
  if (size < 0) return fdb_throw(env, error, "read");
  content[size] = 0;
  const char *line = strstr(content, "\nPid:");
  if (line == NULL) return fdb_throw(env, EINVAL, "fdinfo"); /* the descriptor is not a pidfd */
  return fdb_int_value(env, strtol(line + 5, NULL, 10));
}

napi_value fdb_pidfd_dead(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, ready;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "pidfd", &fd)) return NULL;
  struct pollfd watched = { .fd = fd, .events = POLLIN };
  do ready = poll(&watched, 1, 0);
  while (ready < 0 && errno == EINTR);
  if (ready < 0) return fdb_throw(env, errno, "poll");
  if (watched.revents & POLLNVAL) return fdb_throw(env, EBADF, "poll");
  return fdb_bool_value(env, ready > 0 && (watched.revents & (POLLIN | POLLHUP)) != 0);
}

#ifndef POLLRDHUP
#define POLLRDHUP POLLHUP
#endif

/* Returns for each socket 0: open, 1: the peer has closed its end, 2: error. For sockets from which the process does not
   read, because the event loop does not watch them. */
napi_value fdb_hangups(napi_env env, napi_callback_info info) {
  fdb_call call;
  uint32_t length, count;
  int fds[FDB_SCRATCH], ready;
  struct pollfd watched[FDB_SCRATCH];
  napi_value result;
  if (!fdb_enter(env, info, 1, &call) || !fdb_array_length(env, call.argv[0], "fds", &length)) return NULL;
  if (napi_create_array_with_length(env, length, &result) != napi_ok) return NULL;
  for (uint32_t from = 0; from < length; from += FDB_SCRATCH) {
    if (!fdb_copy_fds(call.self, call.argv[0], from, fds, &count)) return NULL;
    for (uint32_t i = 0; i < count; i++) watched[i] = (struct pollfd){ .fd = fds[i], .events = POLLRDHUP };
    do ready = poll(watched, count, 0);
    while (ready < 0 && errno == EINTR);
    if (ready < 0) return fdb_throw(env, errno, "poll");
    for (uint32_t i = 0; i < count; i++) {
      short seen = watched[i].revents;
      if (seen & POLLNVAL) return fdb_throw(env, EBADF, "poll");
      int state = seen & POLLERR ? 2 : seen & (POLLRDHUP | POLLHUP) ? 1 : 0;
      if (napi_set_element(env, result, from + i, fdb_int_value(env, state)) != napi_ok) return NULL;
    }
  }
  return result;
}
