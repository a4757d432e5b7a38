/* Datagrams of a UDP socket with the address of the peer, and the own address to which the peer has sent. */
#include "fdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: Node ignores SIGPIPE */
#endif

/* The two ends of a datagram, as bytes that are equal for equal ends: family (4, 6), 0, port of the peer, its address, its scope, own address (all 0: not
   known). An IPv4 address has the form ::ffff:a.b.c.d; numbers are in network byte order. */
enum { FAMILY = 0, PORT = 2, PEER = 4, SCOPE = 20, OWN = 24, ENDS_BYTES = 40 };

static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

static void put_v4(uint8_t *into, const struct in_addr *from) {
  memcpy(into, mapped, sizeof(mapped));
  memcpy(into + sizeof(mapped), from, sizeof(*from));
}

/* Sets `into` to the memory of an argument with room for both ends. */
static bool ends_of(napi_env env, napi_value value, fdb_bytes *into) {
  if (!fdb_view(env, value, "ends", into)) return false;
  if (into->length == ENDS_BYTES) return true;
  fdb_throw_range(env, "ends must have %d bytes", ENDS_BYTES);
  return false;
}

static void read_own(struct msghdr *message, uint8_t *ends) {
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
#ifdef IP_PKTINFO
    if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(header), sizeof(info));
      put_v4(ends + OWN, &info.ipi_spec_dst);
    }
#endif
#ifdef IPV6_PKTINFO
    if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, CMSG_DATA(header), sizeof(info));
      /* No datagram leaves from a multicast address. */
      if (!IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) memcpy(ends + OWN, &info.ipi6_addr, sizeof(info.ipi6_addr));
    }
#endif
  }
}

napi_value fdb_receive_from(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes into, ends;
  int fd;
  if (!fdb_enter(env, info, 5, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) || !fdb_span(&call, 1, &into) ||
      !ends_of(env, call.argv[4], &ends))
    return NULL;
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } peer;
  union {
    struct cmsghdr align;
    char space[256];
  } control;
  struct iovec part = { .iov_base = into.data, .iov_len = into.length };
  struct msghdr message = {
    .msg_name = &peer, .msg_namelen = sizeof(peer), .msg_iov = &part, .msg_iovlen = 1,
    .msg_control = control.space, .msg_controllen = sizeof(control.space)
  };
  ssize_t got;
  do got = recvmsg(fd, &message, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "recvmsg");
  memset(ends.data, 0, ENDS_BYTES);
  if (peer.any.sa_family == AF_INET) {
    ends.data[FAMILY] = 4;
    memcpy(ends.data + PORT, &peer.v4.sin_port, 2);
    put_v4(ends.data + PEER, &peer.v4.sin_addr);
  } else {
    uint32_t scope = htonl(peer.v6.sin6_scope_id);
    ends.data[FAMILY] = 6;
    memcpy(ends.data + PORT, &peer.v6.sin6_port, 2);
    memcpy(ends.data + PEER, &peer.v6.sin6_addr, 16);
    memcpy(ends.data + SCOPE, &scope, sizeof(scope));
  }
  read_own(&message, ends.data);
  return fdb_int_value(env, got);
}

/* The time of a datagram, in nanoseconds since 1970; 0 if the kernel does not tell. */
static int64_t time_of(struct msghdr *message) {
#ifdef SO_TIMESTAMPNS
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    struct timespec at;
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SO_TIMESTAMPNS) continue;
    memcpy(&at, CMSG_DATA(header), sizeof(at));
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
  }
#else
  (void)message;
#endif
  return 0;
}

napi_value fdb_arrival(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
#ifdef SO_TIMESTAMPNS
  /* A datagram that came before gets the time of the first look, and keeps it. */
  int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) < 0) return fdb_throw(env, errno, "setsockopt");
#endif
  union {
    struct cmsghdr align;
    char space[256];
  } control;
  struct msghdr message = { .msg_control = control.space, .msg_controllen = sizeof(control.space) };
  ssize_t got;
  do got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_PEEK);
  while (got < 0 && errno == EINTR);
  if (got >= 0) return fdb_int_value(env, time_of(&message));
  return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "recvmsg");
}

static void put_control(struct msghdr *message, int level, int type, const void *data, size_t size) {
  struct cmsghdr *header = message->msg_control;
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(header), data, size);
  message->msg_controllen = CMSG_SPACE(size);
}

/* Makes the kernel send from the address to which the peer has sent: a socket that is bound to all addresses has many. */
static void send_from_own(struct msghdr *message, const uint8_t *ends) {
  static const uint8_t unknown[16];
  const uint8_t *own = ends + OWN;
  if (memcmp(own, unknown, sizeof(unknown)) == 0) return;
  if (ends[FAMILY] == 4) {
#ifdef IP_PKTINFO
    struct in_pktinfo info = { 0 };
    memcpy(&info.ipi_spec_dst, own + sizeof(mapped), 4);
    put_control(message, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
#endif
  } else {
#ifdef IPV6_PKTINFO
    struct in6_pktinfo info = { 0 };
    memcpy(&info.ipi6_addr, own, 16);
    put_control(message, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
#endif
  }
}

napi_value fdb_send_to(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes bytes, ends;
  int fd;
  if (!fdb_enter(env, info, 5, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) || !fdb_span(&call, 1, &bytes) ||
      !ends_of(env, call.argv[4], &ends))
    return NULL;
  struct sockaddr_in v4 = { .sin_family = AF_INET };
  struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
  union {
    struct cmsghdr align;
    char space[64];
  } control;
  memset(&control, 0, sizeof(control));
  struct iovec part = { .iov_base = bytes.data, .iov_len = bytes.length };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space };
  if (ends.data[FAMILY] == 4) {
    memcpy(&v4.sin_port, ends.data + PORT, 2);
    memcpy(&v4.sin_addr, ends.data + PEER + sizeof(mapped), 4);
    message.msg_name = &v4;
    message.msg_namelen = sizeof(v4);
  } else {
    uint32_t scope;
    memcpy(&scope, ends.data + SCOPE, sizeof(scope));
    v6.sin6_scope_id = ntohl(scope);
    memcpy(&v6.sin6_port, ends.data + PORT, 2);
    memcpy(&v6.sin6_addr, ends.data + PEER, 16);
    message.msg_name = &v6;
    message.msg_namelen = sizeof(v6);
  }
  send_from_own(&message, ends.data);
  if (message.msg_controllen == 0) message.msg_control = NULL;
  ssize_t sent;
  do sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0) return fdb_int_value(env, sent);
  return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "sendmsg");
}

napi_value fdb_peer_of_ends(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes ends;
  char text[INET6_ADDRSTRLEN];
  napi_value result;
  if (!fdb_enter(env, info, 1, &call) || !ends_of(env, call.argv[0], &ends)) return NULL;
  const uint8_t *peer = ends.data + PEER;
  bool v4 = memcmp(peer, mapped, sizeof(mapped)) == 0;
  if (inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? peer + sizeof(mapped) : peer, text, sizeof(text)) == NULL)
    return fdb_throw(env, errno, "inet_ntop");
  return napi_create_string_latin1(env, text, NAPI_AUTO_LENGTH, &result) == napi_ok ? result : NULL;
}
