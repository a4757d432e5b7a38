/* Creates sockets: bind, listen, connect, accept, pair, options. Every new socket is non-blocking and CLOEXEC. */
#include "fdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct {
  bool udp, unix_domain, abstract, datagram;
  bool reuse_addr, reuse_port, ipv6_only;
  int port, backlog, mode; /* backlog, mode: -1 when not given */
  int64_t uid, gid;        /* -1 when not given */
  char host[256];
  size_t host_length;
} bind_options;

typedef struct {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un path;
  } of;
  socklen_t length;
} address;

#ifndef SOCK_CLOEXEC
static int prepare(int fd) {
  if (fd >= 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)) {
    int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
#ifdef SO_NOSIGPIPE
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
  return fd;
}
#endif

static int new_socket(int domain, int type) {
#ifdef SOCK_CLOEXEC
  return socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
  return prepare(socket(domain, type, 0));
#endif
}

/* --- options -------------------------------------------------------------------------------------------- */

/* Returns 1 if present, 0 if absent or undefined, -1 with a pending exception. */
static int get_property(napi_env env, napi_value object, const char *name, napi_value *value) {
  napi_valuetype type;
  if (napi_get_named_property(env, object, name, value) != napi_ok) return -1;
  if (napi_typeof(env, *value, &type) != napi_ok) return -1;
  return type != napi_undefined;
}

static bool flag_property(napi_env env, napi_value object, const char *name, bool *into) {
  napi_value value;
  int present = get_property(env, object, name, &value);
  return present == 0 || (present == 1 && fdb_bool(env, value, name, into));
}

static bool int_property(napi_env env, napi_value object, const char *name, int max, int *into) {
  napi_value value;
  int present = get_property(env, object, name, &value);
  return present == 0 || (present == 1 && fdb_int(env, value, name, 0, max, into));
}

static bool id_property(napi_env env, napi_value object, const char *name, int64_t *into) {
  napi_value value;
  double number;
  int present = get_property(env, object, name, &value);
  if (present == 0) return true;
  if (present < 0 || !fdb_integer(env, value, name, 0, 4294967294.0, &number)) return false;
  *into = (int64_t)number;
  return true;
}

static bool read_options(napi_env env, napi_value object, bind_options *options) {
  napi_valuetype type;
  napi_value value;
  char kind[8];
  size_t length;
  *options = (bind_options){ .ipv6_only = true, .backlog = -1, .mode = -1, .uid = -1, .gid = -1 };
  if (napi_typeof(env, object, &type) != napi_ok || type != napi_object) {
    fdb_throw_type(env, "options must be an object");
    return false;
  }
  if (get_property(env, object, "kind", &value) < 0 || !fdb_text(env, value, "kind", kind, sizeof(kind), &length))
    return false;
  options->udp = strcmp(kind, "udp") == 0;
  options->unix_domain = strcmp(kind, "unix") == 0;
  if (!options->udp && !options->unix_domain && strcmp(kind, "tcp") != 0) {
    fdb_throw_range(env, "kind must be tcp, udp or unix, got %s", kind);
    return false;
  }
  if (get_property(env, object, "host", &value) < 0 ||
      !fdb_text(env, value, "host", options->host, sizeof(options->host), &options->host_length))
    return false;
  if (!int_property(env, object, "port", 65535, &options->port) ||
      !flag_property(env, object, "abstract", &options->abstract) ||
      !flag_property(env, object, "datagram", &options->datagram) ||
      !flag_property(env, object, "reuseAddr", &options->reuse_addr) ||
      !flag_property(env, object, "reusePort", &options->reuse_port) ||
      !flag_property(env, object, "ipv6Only", &options->ipv6_only) ||
      !int_property(env, object, "backlog", INT_MAX, &options->backlog) ||
      !int_property(env, object, "mode", 0777, &options->mode) || !id_property(env, object, "uid", &options->uid) ||
      !id_property(env, object, "gid", &options->gid))
    return false;
  if (options->backlog >= 0 && (options->udp || options->datagram)) {
    fdb_throw_range(env, "backlog is for stream sockets only");
    return false;
  }
  if (options->unix_domain && options->abstract && (options->mode >= 0 || options->uid >= 0 || options->gid >= 0)) {
    fdb_throw_range(env, "an abstract socket has no mode, uid or gid");
    return false;
  }
  return true;
}

/* --- addresses ------------------------------------------------------------------------------------------ */

/* Creates the address of a Unix socket. Returns false with a pending ENAMETOOLONG (of `syscall`) or RangeError. */
static bool unix_address(napi_env env, const char *name, size_t length, bool abstract, const char *syscall,
                         address *into) {
  size_t room = sizeof(into->of.path.sun_path) - 1;
  memset(into, 0, sizeof(*into));
  into->of.path.sun_family = AF_UNIX;
  if (length == 0) {
    fdb_throw_range(env, "the path of a Unix socket must not be empty");
    return false;
  }
  if (length > room) {
    fdb_throw(env, ENAMETOOLONG, syscall);
    return false;
  }
  if (!abstract && memchr(name, 0, length) != NULL) {
    fdb_throw_range(env, "the path of a Unix socket must not contain a NUL byte");
    return false;
  }
#ifndef __linux__
  if (abstract) {
    fdb_throw(env, EAFNOSUPPORT, syscall);
    return false;
  }
#endif
  memcpy(into->of.path.sun_path + (abstract ? 1 : 0), name, length);
  into->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
  return true;
}

/* Converts an IP address. `host` is a buffer of 256 bytes, `length` the text's length before it was cut. Overwrites the %
   before a zone. */
static bool inet_address(napi_env env, char *host, size_t length, int port, address *into) {
  memset(into, 0, sizeof(*into));
  bool whole = length < 256 && strlen(host) == length;
  if (whole && inet_pton(AF_INET, host, &into->of.v4.sin_addr) == 1) {
    into->of.v4.sin_family = AF_INET;
    into->of.v4.sin_port = htons((uint16_t)port);
    into->length = sizeof(into->of.v4);
    return true;
  }
  char *zone = whole ? strchr(host, '%') : NULL;
  if (zone != NULL) {
    *zone = 0;
    into->of.v6.sin6_scope_id = if_nametoindex(zone + 1);
    if (into->of.v6.sin6_scope_id == 0) {
      fdb_throw_range(env, "host names the interface %s, which does not exist", zone + 1);
      return false;
    }
  }
  if (!whole || inet_pton(AF_INET6, host, &into->of.v6.sin6_addr) != 1) {
    fdb_throw_range(env, "host must be an IP address, got %.100s", host);
    return false;
  }
  into->of.v6.sin6_family = AF_INET6;
  into->of.v6.sin6_port = htons((uint16_t)port);
  into->length = sizeof(into->of.v6);
  return true;
}

/* --- bind ----------------------------------------------------------------------------------------------- */

/*
 * Sets owner and mode of a path that bind_at() has created with fewer rights. If a symbolic link has replaced the path,
 * O_PATH with O_NOFOLLOW opens the link, not its target. Returns the call that failed, with errno, or NULL.
 */
static const char *set_rights(const char *path, const bind_options *options, mode_t mode) {
#ifdef O_PATH
  struct stat found;
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return "open";
  const char *failed = NULL;
  char proc[40];
  snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
  if (fstat(fd, &found) < 0) failed = "fstat";
  else if (!S_ISSOCK(found.st_mode)) { errno = EEXIST; failed = "bind"; }
  else if ((options->uid >= 0 || options->gid >= 0) &&
           fchownat(fd, "", options->uid >= 0 ? (uid_t)options->uid : (uid_t)-1,
                    options->gid >= 0 ? (gid_t)options->gid : (gid_t)-1, AT_EMPTY_PATH) < 0) failed = "chown";
  else if (chmod(proc, mode) < 0 && (errno != ENOENT || chmod(path, mode) < 0)) failed = "chmod";
  int error = errno;
  close(fd);
  errno = error;
  return failed;
#else
  if ((options->uid >= 0 || options->gid >= 0) &&
      lchown(path, options->uid >= 0 ? (uid_t)options->uid : (uid_t)-1,
             options->gid >= 0 ? (gid_t)options->gid : (gid_t)-1) < 0) return "chown";
  return chmod(path, mode) < 0 ? "chmod" : NULL;
#endif
}

/* Binds; a Unix path gets its rights before listen(). Returns the call that failed, with errno, or NULL. */
static const char *bind_at(int fd, const address *at, const bind_options *options) {
  bool path = options->unix_domain && !options->abstract, owned = options->uid >= 0 || options->gid >= 0;
  mode_t mode = (mode_t)options->mode;
  /* bind() gives the path the mode of the socket, minus the umask: never more rights than requested, and none for group
     and others until owner and group are set. */
  if (path && options->mode >= 0 && fchmod(fd, owned ? mode & 0700 : mode) < 0 && errno != EINVAL) return "fchmod";
  if (bind(fd, &at->of.any, at->length) < 0) return "bind";
  if (!path || (options->mode < 0 && !owned)) return NULL;
  if (options->mode < 0) {
    struct stat bound;
    if (lstat(at->of.path.sun_path, &bound) < 0) return "lstat";
    mode = bound.st_mode & 0777;
  }
  const char *failed = set_rights(at->of.path.sun_path, options, mode);
  if (failed != NULL) {
    int error = errno;
    unlink(at->of.path.sun_path);
    errno = error;
  }
  return failed;
}

static const char *set_flag(int fd, int level, int name, bool on) {
  int value = on;
  return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? "setsockopt" : NULL;
}

static const char *open_bound(const bind_options *options, const address *at, int *fd) {
  const char *failed = NULL;
  int family = at->of.any.sa_family;
  *fd = new_socket(family, options->udp || options->datagram ? SOCK_DGRAM : SOCK_STREAM);
  if (*fd < 0) return "socket";
  if (family != AF_UNIX) {
    if (options->reuse_addr) failed = set_flag(*fd, SOL_SOCKET, SO_REUSEADDR, true);
    if (failed == NULL && options->reuse_port) failed = set_flag(*fd, SOL_SOCKET, SO_REUSEPORT, true);
    if (failed == NULL && family == AF_INET6)
      failed = set_flag(*fd, IPPROTO_IPV6, IPV6_V6ONLY, options->ipv6_only);
  }
  if (failed == NULL) failed = bind_at(*fd, at, options);
  if (failed == NULL && options->backlog >= 0 && listen(*fd, options->backlog) < 0) {
    failed = "listen";
    if (family == AF_UNIX && !options->abstract) {
      int error = errno;
      unlink(at->of.path.sun_path);
      errno = error;
    }
  }
  return failed;
}

napi_value fdb_bind_socket(napi_env env, napi_callback_info info) {
  fdb_call call;
  bind_options options;
  address at;
  int fd;
  if (!fdb_enter(env, info, 1, &call) || !read_options(env, call.argv[0], &options)) return NULL;
  if (options.unix_domain) {
    if (!unix_address(env, options.host, options.host_length, options.abstract, "bind", &at)) return NULL;
  } else if (!inet_address(env, options.host, options.host_length, options.port, &at)) {
    return NULL;
  }
  const char *failed = open_bound(&options, &at, &fd);
  if (failed != NULL) {
    int error = errno;
    if (fd >= 0) close(fd);
    return fdb_throw(env, error, failed);
  }
  return fdb_owned_value(call.self, fd);
}

napi_value fdb_listen(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, backlog;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_int(env, call.argv[1], "backlog", 0, INT_MAX, &backlog))
    return NULL;
  return listen(fd, backlog) < 0 ? fdb_throw(env, errno, "listen") : fdb_undefined(env);
}

static napi_value connect_unix(napi_env env, napi_callback_info info, int type) {
  fdb_call call;
  address to;
  char name[256];
  size_t length;
  bool abstract;
  int result;
  if (!fdb_enter(env, info, 2, &call) || !fdb_text(env, call.argv[0], "path", name, sizeof(name), &length) ||
      !fdb_bool(env, call.argv[1], "abstract", &abstract) ||
      !unix_address(env, name, length, abstract, "connect", &to))
    return NULL;
  int fd = new_socket(AF_UNIX, type);
  if (fd < 0) return fdb_throw(env, errno, "socket");
  do result = connect(fd, &to.of.any, to.length);
  while (result < 0 && errno == EINTR);
  if (result < 0) {
    int error = errno;
    close(fd);
    return fdb_throw(env, error, "connect");
  }
  return fdb_owned_value(call.self, fd);
}

/* Reads the host and the port to which a call connects. */
static bool peer_of(fdb_call *call, address *to) {
  char host[256];
  size_t length;
  int port;
  return fdb_text(call->env, call->argv[0], "host", host, sizeof(host), &length) &&
         fdb_int(call->env, call->argv[1], "port", 1, 65535, &port) &&
         inet_address(call->env, host, length, port, to);
}

/* After EINTR the kernel continues to connect, as after EINPROGRESS. */
napi_value fdb_connect_tcp(napi_env env, napi_callback_info info) {
  fdb_call call;
  address to;
  if (!fdb_enter(env, info, 2, &call) || !peer_of(&call, &to)) return NULL;
  int fd = new_socket(to.of.any.sa_family, SOCK_STREAM);
  if (fd < 0) return fdb_throw(env, errno, "socket");
  const char *failed = "setsockopt";
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) == 0 &&
      setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int)) == 0) {
    failed = "connect";
    if (connect(fd, &to.of.any, to.length) == 0 || errno == EINPROGRESS || errno == EINTR)
      return fdb_owned_value(call.self, fd);
  }
  int error = errno;
  close(fd);
  return fdb_throw(env, error, failed);
}

napi_value fdb_connect_udp(napi_env env, napi_callback_info info) {
  fdb_call call;
  address to;
  if (!fdb_enter(env, info, 2, &call) || !peer_of(&call, &to)) return NULL;
  int fd = new_socket(to.of.any.sa_family, SOCK_DGRAM);
  if (fd < 0) return fdb_throw(env, errno, "socket");
  if (connect(fd, &to.of.any, to.length) == 0) return fdb_owned_value(call.self, fd);
  int error = errno;
  close(fd);
  return fdb_throw(env, error, "connect");
}

napi_value fdb_connect_result(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, error = 0;
  socklen_t size = sizeof(error);
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) return fdb_throw(env, errno, "getsockopt");
  if (error != 0) return fdb_int_value(env, error);
  struct sockaddr_storage peer;
  socklen_t length = sizeof(peer);
  return fdb_int_value(env, getpeername(fd, (struct sockaddr *)&peer, &length) == 0 ? 0 : -1);
}

napi_value fdb_connect_unix(napi_env env, napi_callback_info info) {
  return connect_unix(env, info, SOCK_STREAM);
}

napi_value fdb_connect_datagram(napi_env env, napi_callback_info info) {
  return connect_unix(env, info, SOCK_DGRAM);
}

napi_value fdb_accept(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, accepted;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  do {
#ifdef SOCK_CLOEXEC
    accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    accepted = prepare(accept(fd, NULL, NULL));
#endif
  } while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (accepted < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? fdb_int_value(env, -1) : fdb_throw(env, errno, "accept");
  return fdb_owned_value(call.self, accepted);
}

napi_value fdb_socket_pair(napi_env env, napi_callback_info info) {
  fdb_call call;
  int pair[2];
  if (!fdb_enter(env, info, 0, &call)) return NULL;
#ifdef SOCK_CLOEXEC
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
    return fdb_throw(env, errno, "socketpair");
#else
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return fdb_throw(env, errno, "socketpair");
  if (prepare(pair[0]) < 0 || prepare(pair[1]) < 0) return fdb_throw(env, errno, "fcntl");
#endif
  return fdb_owned_pair(call.self, pair);
}

/* Bytes of the receive queue of a UDP socket that many clients share. */
#define LONG_QUEUE (4 * 1024 * 1024)

/* Makes a UDP socket tell to which of its addresses a datagram was sent. */
static const char *tell_address(int fd, bool on) {
  int domain = 0;
  socklen_t size = sizeof(domain);
#ifdef SO_DOMAIN
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return "getsockopt";
#else
  (void)size;
#endif
#if defined(IP_PKTINFO)
  if (domain == AF_INET) return set_flag(fd, IPPROTO_IP, IP_PKTINFO, on);
#endif
#if defined(IPV6_RECVPKTINFO)
  if (domain == AF_INET6) {
#if defined(IP_PKTINFO)
    /* IPv6 tells the address of a broadcast over IPv4, from which no datagram leaves. A socket without IPv4 refuses the option. */
    (void)set_flag(fd, IPPROTO_IP, IP_PKTINFO, on);
#endif
    return set_flag(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, on);
  }
#endif
  errno = ENOPROTOOPT;
  return "setsockopt";
}

napi_value fdb_set_option(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd, level = SOL_SOCKET, name;
  char option[16];
  size_t length;
  bool on;
  if (!fdb_enter(env, info, 3, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_text(env, call.argv[1], "option", option, sizeof(option), &length) ||
      !fdb_bool(env, call.argv[2], "value", &on))
    return NULL;
  if (strcmp(option, "reuseAddr") == 0) name = SO_REUSEADDR;
  else if (strcmp(option, "reusePort") == 0) name = SO_REUSEPORT;
  else if (strcmp(option, "keepAlive") == 0) name = SO_KEEPALIVE;
  else if (strcmp(option, "ipv6Only") == 0) { level = IPPROTO_IPV6; name = IPV6_V6ONLY; }
#ifdef SO_PASSCRED
  else if (strcmp(option, "passCred") == 0) name = SO_PASSCRED;
#endif
  else if (strcmp(option, "longQueue") == 0) {
    int bytes = LONG_QUEUE;
#ifdef SO_RCVBUFFORCE
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) == 0) return fdb_undefined(env);
#endif
    /* The kernel takes at most net.core.rmem_max. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0) return fdb_throw(env, errno, "setsockopt");
    return fdb_undefined(env);
  }
  else if (strcmp(option, "tellAddress") == 0) {
    const char *failed = tell_address(fd, on);
    return failed != NULL ? fdb_throw(env, errno, failed) : fdb_undefined(env);
  }
  else return fdb_throw_range(env, "option must be reuseAddr, reusePort, keepAlive, ipv6Only, passCred, tellAddress or longQueue, got %s", option);
  return set_flag(fd, level, name, on) != NULL ? fdb_throw(env, errno, "setsockopt") : fdb_undefined(env);
}
