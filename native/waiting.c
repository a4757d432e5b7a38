/*
 * If the addon is preloaded (LD_PRELOAD) and FD_BROKER_WAITS has a pid, the process waits here, before Node starts, until that process has ended or
 * an order (INT, TERM, HUP) has come. Meanwhile it reaps children, and needs some hundred KiB instead of Node's 40 MiB. Then it executes the same command again:
 * FD_BROKER_SENT has the orders that were sent to that process, others stay pending, and FD_BROKER_WAITED has that pid, and the ends of the last children ("PID PID:CODE …").
 *
 * If the command has a control socket (--control PATH), the process that accepts there takes the place of the awaited one: when that one has ended, and when an
 * order comes, for a replaced process may live on for some time. Node starts for longer than some tools wait until they kill what does not obey.
 */
#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define WAITS "FD_BROKER_WAITS"
#define SENT "FD_BROKER_SENT"
#define WAITED "FD_BROKER_WAITED"
#define MOST_ENDS 16
#define MOST_WORDS 64
#define MOST_BYTES 8192
#define LINE 512

extern char **environ;

typedef struct {
  pid_t pid;
  int code;
} end;

/* pidfd < 0: there is none. */
typedef struct {
  pid_t pid;
  int pidfd;
} server;

static end ends[MOST_ENDS];
static unsigned count;

static void reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0; count++)
    ends[count % MOST_ENDS] = (end){ pid, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status) };
}

static void report(pid_t pid) {
  char text[(MOST_ENDS + 1) * 20];
  size_t length = (size_t)snprintf(text, sizeof(text), "%d", (int)pid);
  unsigned from = count > MOST_ENDS ? count - MOST_ENDS : 0;
  for (unsigned i = from; i < count; i++)
    length += (size_t)snprintf(text + length, sizeof(text) - length, " %d:%d", (int)ends[i % MOST_ENDS].pid,
                               ends[i % MOST_ENDS].code);
  setenv(WAITED, text, 1);
}

/* Sends pending orders to the process of this pidfd. Takes each before it is sent, so that the same order may come again at any moment: a signal that is
   pending already would take it in. One that cannot be sent is pending again, for Node. */
static void send_orders(int process) {
  static const int SENDS[] = { SIGINT, SIGTERM };
  static const struct timespec AT_ONCE;
  char text[16];
  size_t length = 0;
  sigset_t pending;
  sigpending(&pending);
  for (size_t i = 0; i < sizeof(SENDS) / sizeof(*SENDS); i++) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SENDS[i]);
    if (sigismember(&pending, SENDS[i]) != 1 || sigtimedwait(&one, NULL, &AT_ONCE) != SENDS[i]) continue;
    if (syscall(SYS_pidfd_send_signal, process, SENDS[i], NULL, 0) != 0) {
      kill(getpid(), SENDS[i]);
      continue;
    }
    length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%d", length == 0 ? "" : " ", SENDS[i]);
  }
  if (length > 0) setenv(SENT, text, 1);
}

/* Returns false if this command line is too long. */
static bool read_words(char *buffer, char **words) {
  ssize_t length = 0;
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  for (ssize_t size; length < MOST_BYTES && (size = read(fd, buffer + length, (size_t)(MOST_BYTES - length))) > 0;) length += size;
  close(fd);
  if (length <= 0 || length == MOST_BYTES || buffer[length - 1] != 0) return false;
  unsigned word = 0;
  for (ssize_t at = 0; at < length; at += (ssize_t)strlen(buffer + at) + 1) {
    if (word == MOST_WORDS - 1) return false;
    words[word++] = buffer + at;
  }
  words[word] = NULL;
  return true;
}

/* Pages of files, which many processes share, count as this process's memory until they are given back. The kernel reads them again when they are needed, unless this
   process has changed them (relocations). */
static void drop_pages(void) {
  FILE *maps = fopen("/proc/self/smaps", "re");
  char line[LINE];
  unsigned long from, to, start = 0, stop = 0, inode = 0, changed;
  char rights[5] = "";
  if (maps == NULL) return;
  while (fgets(line, sizeof(line), maps) != NULL) {
    if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &from, &to, rights, &inode) == 4) start = from, stop = to;
    else if (sscanf(line, "Anonymous: %lu", &changed) == 1 && changed == 0 && inode != 0 && rights[1] == '-')
      madvise((void *)start, stop - start, MADV_DONTNEED);
  }
  fclose(maps);
}

static const char *control_of(char **words) {
  for (; *words != NULL; words++)
    if (strcmp(*words, "--control") == 0) return words[1];
  return NULL;
}

static bool has_ended(int pidfd) {
  struct pollfd watched = { .fd = pidfd, .events = POLLIN };
  return poll(&watched, 1, 0) != 0;
}

/* Returns the living process that called listen() last at this path, as each version does that begins to accept: none if this process cannot see it, if the
   kernel is older than 6.5, or if it is this one, by an earlier program. A pid alone may be another process's by now. */
static server server_at(const char *path) {
  server found = { 0, -1 };
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct ucred peer;
  socklen_t size = sizeof(peer);
  if (path == NULL || strlen(path) >= sizeof(address.sun_path)) return found;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return found;
  if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0 &&
      peer.pid != getpid()) {
    size = sizeof(found.pidfd);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &found.pidfd, &size) != 0) found.pidfd = -1;
    else if (has_ended(found.pidfd)) {
      close(found.pidfd);
      found.pidfd = -1;
    } else found.pid = peer.pid;
  }
  close(fd);
  return found;
}

/* Replaces the awaited process by the one that accepts at this path. Returns whether there is one. */
static bool follow(server *awaited, const char *path) {
  server now = server_at(path);
  if (now.pidfd < 0) return false;
  if (awaited->pidfd >= 0) close(awaited->pidfd);
  *awaited = now;
  return true;
}

static int watch_signals(const int *numbers, int flags) {
  sigset_t set;
  sigemptyset(&set);
  for (; *numbers != 0; numbers++) sigaddset(&set, *numbers);
  sigprocmask(SIG_BLOCK, &set, NULL);
  return signalfd(-1, &set, flags | SFD_CLOEXEC);
}

__attribute__((constructor)) static void wait_before_node(void) {
  static const int ORDERS[] = { SIGINT, SIGTERM, SIGHUP, 0 }, CHILDREN[] = { SIGCHLD, 0 };
  static const int IGNORED[] = { SIGUSR1, SIGUSR2, SIGPIPE };
  static char buffer[MOST_BYTES];
  static char *words[MOST_WORDS];
  struct sigaction before[sizeof(IGNORED) / sizeof(*IGNORED)], ignore = { .sa_handler = SIG_IGN };
  const char *text = getenv(WAITS);
  server awaited = { text == NULL ? 0 : (pid_t)atoi(text), -1 };
  if (awaited.pid <= 0) return;
  unsetenv(WAITS);
  unsetenv(SENT);
  /* Without one of these Node starts, and waits itself. */
  awaited.pidfd = (int)syscall(SYS_pidfd_open, awaited.pid, 0);
  if ((awaited.pidfd < 0 && errno != ESRCH) || !read_words(buffer, words)) return;
  int orders = watch_signals(ORDERS, 0), children = watch_signals(CHILDREN, SFD_NONBLOCK);
  if (orders < 0 || children < 0) return;
  const char *control = control_of(words);
  for (size_t i = 0; i < sizeof(IGNORED) / sizeof(*IGNORED); i++) sigaction(IGNORED[i], &ignore, &before[i]);
  struct pollfd watched[] = { { .events = POLLIN }, { .fd = orders, .events = POLLIN }, { .fd = children, .events = POLLIN } };
  bool ordered = false;
  reap();
  for (bool fresh = true; !ordered && (awaited.pidfd >= 0 || follow(&awaited, control));) {
    struct signalfd_siginfo about;
    watched[0].fd = awaited.pidfd;
    if (fresh && poll(watched, 3, 0) == 0) drop_pages();
    fresh = false;
    if (poll(watched, 3, -1) < 0) {
      if (errno != EINTR) break;
      continue;
    }
    while (read(children, &about, sizeof(about)) > 0) continue;
    reap();
    ordered = watched[1].revents != 0;
    if (ordered) {
      follow(&awaited, control);
      send_orders(awaited.pidfd);
    } else if (watched[0].revents != 0) {
      close(awaited.pidfd);
      awaited.pidfd = -1;
    }
  }
  reap();
  report(awaited.pid);
  for (size_t i = 0; i < sizeof(IGNORED) / sizeof(*IGNORED); i++) sigaction(IGNORED[i], &before[i], NULL);
  execve("/proc/self/exe", words, environ);
  _exit(127);
}
#else
typedef int nothing_waits;
#endif
