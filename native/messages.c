/* Sends and receives bytes with descriptors over a Unix stream: sendmsg and recvmsg with SCM_RIGHTS. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: sockets.c sets SO_NOSIGPIPE instead */
#endif
#ifdef MSG_CMSG_CLOEXEC
#define RECEIVE_FLAGS (MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
#else
#define RECEIVE_FLAGS MSG_DONTWAIT
#endif

#define SEND_CONTROL CMSG_SPACE(FDB_MAX_FDS * sizeof(int))
/* Has 256 bytes more, for credentials and a pidfd, which the kernel adds if the socket has the options for them. Without
   this space the kernel would drop descriptors. */
#define RECEIVE_CONTROL (SEND_CONTROL + 256)
#define RECEIVE_CAPACITY (RECEIVE_CONTROL / sizeof(int))
_Static_assert(RECEIVE_CAPACITY <= FDB_SCRATCH, "all that one message can carry must fit");
#define SCM_PIDFD_TYPE 4

/* Reads the descriptors of an array or null into `fds`, which has FDB_SCRATCH elements. Sets `*count` to at most FDB_MAX_FDS. */
static bool read_fds(fdb_instance *self, napi_value value, int *fds, uint32_t *count) {
  napi_env env = self->env;
  *count = 0;
  if (fdb_is_nullish(env, value)) return true;
  if (!fdb_array_length(env, value, "fds", count)) return false;
  if (*count > 0 && !fdb_copy_fds(self, value, 0, fds, count)) return false;
  if (*count <= FDB_MAX_FDS) return true;
  fdb_throw(env, EINVAL, "sendmsg"); /* the error of the kernel for more than SCM_MAX_FD */
  return false;
}

napi_value fdb_send_message(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes bytes;
  int fd, fds[FDB_SCRATCH];
  uint32_t count;
  if (!fdb_enter(env, info, 5, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !read_fds(call.self, call.argv[4], fds, &count) || !fdb_span(&call, 1, &bytes))
    return NULL;
  if (count > 0 && bytes.length == 0)
    return fdb_throw_range(env, "descriptors need at least one byte to travel with");

  union {
    struct cmsghdr align;
    char space[SEND_CONTROL];
  } control;
  struct iovec part = { .iov_base = bytes.data, .iov_len = bytes.length };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
  if (count > 0) {
    size_t size = count * sizeof(int);
    memset(control.space, 0, CMSG_SPACE(size));
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(size);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), fds, size);
  }
  ssize_t sent;
  do sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "sendmsg");
  return fdb_int_value(env, sent);
}

typedef struct {
  int64_t pid, uid, gid; /* -1: the kernel has not reported them */
} sender;

/* Collects the descriptors of all control messages in order. Closes an unexpected pidfd. */
static uint32_t collect(struct msghdr *message, int *fds, sender *from) {
  uint32_t count = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_len < CMSG_LEN(0)) continue;
    size_t size = header->cmsg_len - CMSG_LEN(0);
    if (header->cmsg_type == SCM_RIGHTS) {
      uint32_t here = (uint32_t)(size / sizeof(int));
      if (here > RECEIVE_CAPACITY - count) here = (uint32_t)(RECEIVE_CAPACITY - count); /* cannot happen: the control buffer has the same size */
      memcpy(fds + count, CMSG_DATA(header), here * sizeof(int));
      count += here;
    }
#ifdef __linux__
    if (header->cmsg_type == SCM_CREDENTIALS && size >= sizeof(struct ucred)) {
      struct ucred who;
      memcpy(&who, CMSG_DATA(header), sizeof(who));
      *from = (sender){ .pid = who.pid, .uid = who.uid, .gid = who.gid };
    }
    if (header->cmsg_type == SCM_PIDFD_TYPE && size >= sizeof(int)) {
      int pidfd;
      memcpy(&pidfd, CMSG_DATA(header), sizeof(pidfd));
      if (pidfd >= 0) close(pidfd);
    }
#else
    (void)from;
#endif
  }
  return count;
}

/* Takes ownership of all descriptors. If out of memory, closes all, and returns false with an exception pending. */
static bool own_all(fdb_instance *self, const int *fds, uint32_t count) {
  int highest = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (fds[i] > highest) highest = fds[i];
#ifndef MSG_CMSG_CLOEXEC
    fcntl(fds[i], F_SETFD, FD_CLOEXEC);
#endif
  }
  if (!fdb_reserve(self, highest)) {
    for (uint32_t i = 0; i < count; i++) close(fds[i]);
    fdb_throw(self->env, ENOMEM, "realloc");
    return false;
  }
  for (uint32_t i = 0; i < count; i++) fdb_own(self, fds[i]);
  return true;
}

/* Returns the result object; the environment owns its descriptors. Returns NULL with a pending exception. */
static napi_value receive(napi_env env, napi_callback_info info, sender *from) {
  fdb_call call;
  fdb_bytes bytes;
  int fd, fds[RECEIVE_CAPACITY];
  if (!fdb_enter(env, info, 4, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) || !fdb_span(&call, 1, &bytes))
    return NULL;
  if (bytes.length == 0) return fdb_throw_range(env, "length must be at least 1");

  union {
    struct cmsghdr align;
    char space[RECEIVE_CONTROL];
  } control;
  struct iovec part = { .iov_base = bytes.data, .iov_len = bytes.length };
  struct msghdr message = {
    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)
  };
  ssize_t received;
  do received = recvmsg(fd, &message, RECEIVE_FLAGS);
  while (received < 0 && errno == EINTR);
  uint32_t count = 0;
  if (received < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK) return fdb_throw(env, errno, "recvmsg");
    received = -1;
    message.msg_flags = 0;
  } else if (message.msg_controllen > 0) {
    count = collect(&message, fds, from);
    if (count > 0 && !own_all(call.self, fds, count)) return NULL;
  }

  napi_value result[4];
  memcpy(call.self->scratch_fds, fds, count * sizeof(int));
  if (napi_get_reference_value(env, call.self->scratch, &result[0]) != napi_ok ||
      napi_create_int64(env, received, &result[1]) != napi_ok || napi_create_uint32(env, count, &result[2]) != napi_ok)
    return NULL;
  /* The kernel has dropped control data (MSG_CTRUNC) or cut a datagram (MSG_TRUNC). */
  result[3] = fdb_bool_value(env, (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0);
  return fdb_make(call.self, MAKE_RECEIVED, 4, result);
}

napi_value fdb_receive_message(napi_env env, napi_callback_info info) {
  sender ignored;
  return receive(env, info, &ignored);
}

/* The socket must have SO_PASSCRED (setOption "passCred"). */
napi_value fdb_receive_datagram(napi_env env, napi_callback_info info) {
  sender from = { .pid = -1, .uid = -1, .gid = -1 };
  napi_value result = receive(env, info, &from);
  if (result == NULL || napi_set_named_property(env, result, "pid", fdb_int_value(env, from.pid)) != napi_ok ||
      napi_set_named_property(env, result, "uid", fdb_int_value(env, from.uid)) != napi_ok ||
      napi_set_named_property(env, result, "gid", fdb_int_value(env, from.gid)) != napi_ok)
    return NULL;
  return result;
}

#define PEEK_BYTES 4096
#define PEEK_PARTS 64

/*
 * Ends reception on a Unix stream: its peer can send nothing any more. Returns whether no descriptors wait in it, so that its close closes no file of
 * the peer. Looks at no more than 256 KiB; of a longer queue it says that there may be some.
 */
static bool stop_receiving(int fd) {
  int waiting = 0, listening = 0;
  struct sockaddr_storage name;
  socklen_t name_size = sizeof(name), size = sizeof(listening);
  if (getsockname(fd, (struct sockaddr *)&name, &name_size) != 0 || name.ss_family != AF_UNIX) return false;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening) return false;
  if (shutdown(fd, SHUT_RD) != 0 || ioctl(fd, FIONREAD, &waiting) != 0) return false;
  if (waiting == 0) return true;
  if (waiting > PEEK_BYTES * PEEK_PARTS) return false;
#ifdef __linux__
  char bytes[PEEK_BYTES]; /* of all parts, which are not read */
  struct iovec parts[PEEK_PARTS];
  for (int i = 0; i < PEEK_PARTS; i++) parts[i] = (struct iovec){ .iov_base = bytes, .iov_len = PEEK_BYTES };
  /* Without room for control data the kernel sets MSG_CTRUNC where descriptors wait, and reads no further. */
  struct msghdr message = { .msg_iov = parts, .msg_iovlen = PEEK_PARTS };
  ssize_t got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
  return got == waiting && (message.msg_flags & MSG_CTRUNC) == 0;
#else
  return false;
#endif
}

napi_value fdb_stop_receiving(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  return fdb_bool_value(env, fdb_owns(call.self, fd) && stop_receiving(fd));
}
