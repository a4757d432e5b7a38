/* Reports type, identity, address and options of many descriptors in one call. */
#include "fdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#ifdef __linux__
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#endif

#if defined(__linux__) && !defined(SO_COOKIE)
#define SO_COOKIE 57
#endif

typedef union {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un path;
  struct sockaddr_storage room;
} socket_name;

/* Values that repeat within a batch are created once: all sockets have the same device, and many the same address. */
typedef struct {
  napi_env env;
  napi_value yes, no, undefined, socket, families[4], types[4], dev_text, address_text, protocol_value;
  uint64_t dev;
  int protocol;
  char address[INET6_ADDRSTRLEN + IF_NAMESIZE + 2];
} batch;

enum { INET, INET6, UNIX, OTHER };
enum { STREAM, DGRAM, SEQPACKET, STRANGE };

static napi_value text(napi_env env, const char *value) {
  napi_value result = NULL;
  napi_create_string_latin1(env, value, NAPI_AUTO_LENGTH, &result);
  return result;
}

/* Used instead of snprintf(), which takes longer than the system call that returned the number. */
static napi_value decimal(napi_env env, uint64_t number) {
  char digits[20];
  size_t at = sizeof(digits);
  napi_value result = NULL;
  do digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  napi_create_string_latin1(env, digits + at, sizeof(digits) - at, &result);
  return result;
}

static void start_batch(napi_env env, batch *shared) {
  static const char *const families[] = { "inet", "inet6", "unix", "other" };
  static const char *const types[] = { "stream", "dgram", "seqpacket", "other" };
  memset(shared, 0, sizeof(*shared));
  shared->env = env;
  shared->yes = fdb_bool_value(env, true);
  shared->no = fdb_bool_value(env, false);
  shared->undefined = fdb_undefined(env);
  shared->socket = text(env, "socket");
  for (int i = 0; i < 4; i++) {
    shared->families[i] = text(env, families[i]);
    shared->types[i] = text(env, types[i]);
  }
}

static const char *file_type(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "dir";
    case S_IFIFO: return "fifo";
    case S_IFCHR: return "char";
    case S_IFBLK: return "block";
    case 0: return "anon";
    default: return "other";
  }
}

static int option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

static int family_of(int fd, const socket_name *name, socklen_t size) {
  int domain = size >= sizeof(name->any.sa_family) ? name->any.sa_family : -1; /* SO_DOMAIN would take another system call */
#ifdef SO_DOMAIN
  if (domain < 0) domain = option(fd, SOL_SOCKET, SO_DOMAIN);
#else
  (void)fd;
#endif
  return domain == AF_INET ? INET : domain == AF_INET6 ? INET6 : domain == AF_UNIX ? UNIX : OTHER;
}

static napi_value dev_value(batch *shared, uint64_t dev) {
  if (shared->dev_text == NULL || shared->dev != dev) {
    shared->dev = dev;
    shared->dev_text = decimal(shared->env, dev);
  }
  return shared->dev_text;
}

static napi_value protocol_value(batch *shared, int protocol) {
  if (shared->protocol_value == NULL || shared->protocol != protocol) {
    shared->protocol = protocol;
    napi_create_int32(shared->env, protocol, &shared->protocol_value);
  }
  return shared->protocol_value;
}

/* `host` must be shorter than shared->address. */
static napi_value address_value(batch *shared, const char *host) {
  if (shared->address_text == NULL || strcmp(shared->address, host) != 0) {
    memcpy(shared->address, host, strlen(host) + 1);
    shared->address_text = text(shared->env, host);
  }
  return shared->address_text;
}

static void inet_values(batch *shared, int family, const socket_name *name, napi_value *address, napi_value *port) {
  char host[sizeof(shared->address)];
  uint16_t number;
  if (family == INET) {
    inet_ntop(AF_INET, &name->v4.sin_addr, host, sizeof(host));
    number = ntohs(name->v4.sin_port);
  } else {
    inet_ntop(AF_INET6, &name->v6.sin6_addr, host, sizeof(host));
    number = ntohs(name->v6.sin6_port);
    if (name->v6.sin6_scope_id != 0) {
      char zone[IF_NAMESIZE];
      size_t length = strlen(host);
      if (if_indextoname(name->v6.sin6_scope_id, zone) != NULL)
        snprintf(host + length, sizeof(host) - length, "%%%s", zone);
    }
  }
  *address = address_value(shared, host);
  napi_create_uint32(shared->env, number, port);
}

/* An unbound socket has the address ''. An abstract name is given without its leading NUL. */
static void unix_values(batch *shared, const socket_name *name, socklen_t size, napi_value *address,
                        napi_value *abstract) {
  size_t head = offsetof(struct sockaddr_un, sun_path);
  size_t length = size > head ? size - head : 0;
  const char *path = name->path.sun_path;
  bool hidden = length > 1 && path[0] == 0;
  if (hidden) {
    path++;
    length--;
  } else {
    const char *end = memchr(path, 0, length);
    if (end != NULL) length = (size_t)(end - path);
  }
  *address = NULL;
  napi_create_string_utf8(shared->env, path, length, address);
  *abstract = hidden ? shared->yes : shared->no;
}

static napi_value inspect_socket(fdb_instance *self, batch *shared, int fd, const struct stat *found) {
  napi_env env = shared->env;
  socket_name name;
  socklen_t size = sizeof(name);
  if (getsockname(fd, &name.any, &size) < 0) size = 0;
  if (size > sizeof(name)) size = sizeof(name);
  int family = family_of(fd, &name, size);
  int type = option(fd, SOL_SOCKET, SO_TYPE);
  int protocol = 0;
#ifdef SO_PROTOCOL
  protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
#endif
  napi_value values[13];
  size_t count = 10;
  values[0] = shared->socket;
  values[1] = dev_value(shared, found->st_dev);
  values[2] = decimal(env, found->st_ino);
  values[3] = shared->families[family];
  values[4] = shared->types[type == SOCK_STREAM ? STREAM : type == SOCK_DGRAM ? DGRAM
                            : type == SOCK_SEQPACKET ? SEQPACKET : STRANGE];
  values[5] = protocol_value(shared, protocol);
  values[6] = option(fd, SOL_SOCKET, SO_ACCEPTCONN) > 0 ? shared->yes : shared->no;
  values[7] = shared->undefined;
#ifdef SO_COOKIE
  uint64_t cookie;
  socklen_t cookie_size = sizeof(cookie);
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &cookie_size) == 0) values[7] = decimal(env, cookie);
#endif
  values[8] = option(fd, SOL_SOCKET, SO_REUSEADDR) > 0 ? shared->yes : shared->no;
  values[9] = option(fd, SOL_SOCKET, SO_REUSEPORT) > 0 ? shared->yes : shared->no;
  if (size == 0 || family == OTHER) return fdb_make(self, MAKE_OTHER, count, values);
  if (family == UNIX) {
    unix_values(shared, &name, size, &values[10], &values[11]);
    return fdb_make(self, MAKE_UNIX, 12, values);
  }
  inet_values(shared, family, &name, &values[10], &values[11]);
  if (family == INET) return fdb_make(self, MAKE_INET, 12, values);
  values[12] = option(fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0 ? shared->yes : shared->no;
  return fdb_make(self, MAKE_INET6, 13, values);
}

/* Does not ask a file system's server, for example a FUSE process of another user, which may never answer. */
static int stat_without_asking(int fd, struct stat *into) {
#if defined(__linux__) && defined(SYS_statx) && defined(STATX_TYPE)
  struct statx found;
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found) == 0) {
    memset(into, 0, sizeof(*into));
    into->st_mode = found.stx_mode;
    into->st_ino = found.stx_ino;
    into->st_dev = makedev(found.stx_dev_major, found.stx_dev_minor);
    return 0;
  }
  if (!fdb_is_missing(errno)) return -1;
#endif
  return fstat(fd, into);
}

static napi_value inspect_one(fdb_instance *self, batch *shared, int fd) {
  struct stat found;
  if (stat_without_asking(fd, &found) == 0) {
    if (S_ISSOCK(found.st_mode)) return inspect_socket(self, shared, fd, &found);
    napi_value values[3] = { text(shared->env, file_type(found.st_mode)), dev_value(shared, found.st_dev),
                             decimal(shared->env, found.st_ino) };
    return fdb_make(self, MAKE_PLAIN, 3, values);
  }
  char code[64];
  fdb_error_name(errno, code, sizeof(code));
  napi_value zero = text(shared->env, "0");
  napi_value values[4] = { text(shared->env, "other"), zero, zero, text(shared->env, code) };
  return fdb_make(self, MAKE_PLAIN, 4, values);
}

napi_value fdb_inspect(napi_env env, napi_callback_info info) {
  fdb_call call;
  uint32_t length, count;
  int fds[FDB_SCRATCH];
  napi_value result;
  batch shared;
  if (!fdb_enter(env, info, 1, &call) || !fdb_array_length(env, call.argv[0], "fds", &length) ||
      napi_create_array_with_length(env, length, &result) != napi_ok)
    return NULL;
  start_batch(env, &shared);
  for (uint32_t from = 0; from < length; from += FDB_SCRATCH) {
    if (!fdb_copy_fds(call.self, call.argv[0], from, fds, &count)) return NULL;
    for (uint32_t i = 0; i < count; i++) {
      napi_value one = inspect_one(call.self, &shared, fds[i]);
      if (one == NULL || napi_set_element(env, result, from + i, one) != napi_ok) return NULL;
    }
  }
  return result;
}

/* Reports whether the descriptor is a stream socket that does not listen, as an accepted connection is. Much faster than inspect(). */
static bool is_stream(int fd) {
  int type = 0, listening = 0, family = 0;
  socklen_t length = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM) return false;
  length = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 || listening) return false;
#ifdef SO_DOMAIN
  length = sizeof family;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0) return false;
#else
  struct sockaddr_storage address;
  length = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) return false;
  family = address.ss_family;
#endif
  return family == AF_INET || family == AF_INET6 || family == AF_UNIX;
}

napi_value fdb_first_not_stream(napi_env env, napi_callback_info info) {
  fdb_call call;
  uint32_t length, count;
  int fds[FDB_SCRATCH];
  if (!fdb_enter(env, info, 1, &call) || !fdb_array_length(env, call.argv[0], "fds", &length)) return NULL;
  for (uint32_t from = 0; from < length; from += FDB_SCRATCH) {
    if (!fdb_copy_fds(call.self, call.argv[0], from, fds, &count)) return NULL;
    for (uint32_t i = 0; i < count; i++)
      if (!is_stream(fds[i])) return fdb_int_value(env, (int64_t)from + i);
  }
  return fdb_int_value(env, -1);
}
