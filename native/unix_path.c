/* Checks whether a path still belongs to a Unix socket. File and socket have different inodes, but unix_diag reports both. */
#include "fdb.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/sysmacros.h>

struct question {
  struct nlmsghdr header;
  struct unix_diag_req request;
};

/* Asks unix_diag for the file of the socket with this inode. Returns 1 if it has one, 0 if not, -1 with errno. */
static int file_of(ino_t socket_ino, struct unix_diag_vfs *file) {
  char answer[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
  struct question question;
  memset(&question, 0, sizeof(question));
  question.header.nlmsg_len = sizeof(question);
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = UINT32_MAX;
  question.request.udiag_ino = (uint32_t)socket_ino;
  question.request.udiag_show = UDIAG_SHOW_VFS;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = UINT32_MAX;
  int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (netlink < 0) return -1;
  ssize_t size;
  do size = send(netlink, &question, sizeof(question), 0);
  while (size < 0 && errno == EINTR);
  if (size >= 0) /* the kernel has queued the answer within send() */
    do size = recv(netlink, answer, sizeof(answer), MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
  int error = errno;
  close(netlink);
  errno = error;
  if (size < 0) return -1;
  struct nlmsghdr *header = (struct nlmsghdr *)answer;
  if (!NLMSG_OK(header, (size_t)size)) return errno = EPROTO, -1;
  if (header->nlmsg_type == NLMSG_ERROR) {
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr))) return errno = EPROTO, -1;
    return errno = -((struct nlmsgerr *)NLMSG_DATA(header))->error, -1;
  }
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg))) return errno = EPROTO, -1;
  struct rtattr *attribute = (struct rtattr *)((char *)NLMSG_DATA(header) + NLMSG_ALIGN(sizeof(struct unix_diag_msg)));
  int left = (int)(header->nlmsg_len - NLMSG_SPACE(sizeof(struct unix_diag_msg)));
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type != UNIX_DIAG_VFS || RTA_PAYLOAD(attribute) < sizeof(*file)) continue;
    memcpy(file, RTA_DATA(attribute), sizeof(*file));
    return 1;
  }
  return 0;
}
#endif

/* Returns whether the path belongs to the socket; null if unknown: the kernel has no unix_diag, stat() reports another
   device than unix_diag (overlay, btrfs), or this process cannot examine the path. Another user may own its folders. */
napi_value fdb_names_socket(napi_env env, napi_callback_info info) {
  fdb_call call;
  char path[PATH_MAX];
  size_t length;
  int fd;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd) ||
      !fdb_text(env, call.argv[1], "path", path, sizeof(path), &length))
    return NULL;
#ifdef __linux__
  struct stat socket_stat, named;
  struct unix_diag_vfs file;
  if (fstat(fd, &socket_stat) < 0) return fdb_throw(env, errno, "fstat");
  if (!S_ISSOCK(socket_stat.st_mode)) return fdb_bool_value(env, false);
  if (lstat(path, &named) < 0)
    return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? fdb_bool_value(env, false) : fdb_null(env);
  int found = file_of(socket_stat.st_ino, &file);
  if (found < 0) return fdb_null(env);
  /* While the socket is open, its file's inode number is not used for another file. */
  if (found == 0 || !S_ISSOCK(named.st_mode) || (uint32_t)named.st_ino != file.udiag_vfs_ino)
    return fdb_bool_value(env, false);
  /* The kernel encodes a device as 12 bits major and 20 bits minor. */
  dev_t device = makedev(file.udiag_vfs_dev >> 20, file.udiag_vfs_dev & 0xfffff);
  return named.st_dev == device ? fdb_bool_value(env, true) : fdb_null(env);
#else
  return fdb_null(env);
#endif
}
