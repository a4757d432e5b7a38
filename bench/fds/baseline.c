/* The bar for bench/fds: two processes that make the system calls that our addon makes, and nothing else.
 *
 *   baseline raw|verified FDS_A_MESSAGE MESSAGES WINDOW
 *
 * A child sends MESSAGES messages of 64 bytes with distinct listening TCP sockets; at most WINDOW of them are
 * unacknowledged. The parent receives and closes them, and in mode `verified` asks the kernel about each before. Prints the seconds
 * from the end of the first tenth, which is warming up, to the end of the last message.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 253
#define BYTES 64

union control {
  struct cmsghdr align;
  char space[CMSG_SPACE(MOST * sizeof(int))];
};

static void fail(const char *call) {
  perror(call);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void wait_for(int fd, short events) {
  struct pollfd one = { .fd = fd, .events = events };
  while (poll(&one, 1, -1) < 0)
    if (errno != EINTR) fail("poll");
}

static int listener(void) {
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0) fail("listener");
  return fd;
}

static void run_sender(int fd, int count, long messages, long window) {
  int fds[MOST];
  char bytes[BYTES] = { 0 };
  long sent = 0, acknowledged = 0;
  for (int i = 0; i < count; i++) fds[i] = listener();
  while (acknowledged < messages) {
    int blocked = 0;
    while (!blocked && sent < messages && sent - acknowledged < window) {
      union control control;
      size_t size = (size_t)count * sizeof(int);
      struct iovec part = { bytes, BYTES };
      struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
      memset(control.space, 0, CMSG_SPACE(size));
      message.msg_control = control.space;
      message.msg_controllen = CMSG_SPACE(size);
      struct cmsghdr *header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(size);
      memcpy(CMSG_DATA(header), fds, size);
      if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == BYTES) sent++;
      else if (errno == EAGAIN) blocked = 1;
      else fail("sendmsg");
    }
    unsigned char acks[256];
    struct iovec part = { acks, sizeof(acks) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    wait_for(fd, blocked ? POLLIN | POLLOUT : POLLIN);
    for (;;) {
      ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (got == 0) exit(1);
      if (got < 0) break;
      for (ssize_t i = 0; i < got; i++) acknowledged += acks[i];
    }
    if (errno != EAGAIN) fail("recvmsg");
  }
}

static int option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

/* The calls of native/inspect.c, in its order. */
static unsigned long verify(int fd) {
  struct stat found;
  struct sockaddr_storage name;
  socklen_t size = sizeof(name);
  unsigned long long cookie = 0;
  socklen_t cookie_size = sizeof(cookie);
  if (fstat(fd, &found) < 0 || getsockname(fd, (struct sockaddr *)&name, &size) < 0) fail("verify");
  int facts = option(fd, SOL_SOCKET, SO_DOMAIN) + option(fd, SOL_SOCKET, SO_TYPE) + option(fd, SOL_SOCKET, SO_PROTOCOL) +
              option(fd, SOL_SOCKET, SO_ACCEPTCONN);
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &cookie_size) < 0) fail("SO_COOKIE");
  facts += option(fd, SOL_SOCKET, SO_REUSEADDR) + option(fd, SOL_SOCKET, SO_REUSEPORT);
  return (unsigned long)found.st_ino + (unsigned long)cookie + (unsigned long)facts;
}

static double run_receiver(int fd, int verified, int count, long messages) {
  static char bytes[64 * 1024];
  volatile unsigned long sum = 0;
  long received = 0, warm = messages / 10;
  double begun = now();
  while (received < messages) {
    unsigned char fresh = 0;
    wait_for(fd, POLLIN);
    for (;;) {
      union control control;
      struct iovec part = { bytes, sizeof(bytes) };
      struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)
      };
      ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (got < 0 && errno == EAGAIN) break;
      if (got <= 0 || message.msg_flags & MSG_CTRUNC) fail("recvmsg");
      struct cmsghdr *header = CMSG_FIRSTHDR(&message);
      int fds[MOST];
      int here = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      if (here != count || got != BYTES) fail("what arrived");
      memcpy(fds, CMSG_DATA(header), (size_t)here * sizeof(int));
      if (verified)
        for (int i = 0; i < here; i++) sum += verify(fds[i]);
      for (int i = 0; i < here; i++) close(fds[i]);
      fresh++;
      if (++received == warm) begun = now();
    }
    struct iovec part = { &fresh, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    if (fresh > 0 && sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) fail("sendmsg");
  }
  return now() - begun;
}

int main(int argc, char **argv) {
  int pair[2];
  struct rlimit limit;
  if (argc != 5) return 2;
  int verified = strcmp(argv[1], "verified") == 0, count = atoi(argv[2]);
  long messages = atol(argv[3]), window = atol(argv[4]);
  if (count < 1 || count > MOST || window < 1 || window > 255) return 2;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max; /* as Node does */
  setrlimit(RLIMIT_NOFILE, &limit);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) fail("socketpair");
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    close(pair[0]);
    run_sender(pair[1], count, messages, window);
    return 0;
  }
  close(pair[1]);
  double seconds = run_receiver(pair[0], verified, count, messages);
  waitpid(child, NULL, 0);
  printf("%.9f\n", seconds);
  return 0;
}
