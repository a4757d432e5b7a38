/* A thread that forks for the process, and has a table of descriptors of its own. A forked child has copies of all descriptors of its table, and closes them before it
   executes a program; a close of another user's FUSE file waits for as long as that user likes. The table of this thread has no descriptor that the
   process gets after the thread was started. All else, the thread shares with the process: it is the parent of its children. */
#include "fdb.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __linux__
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define UNSHARE_FLAG 2u /* CLOSE_RANGE_UNSHARE */
#define OPENS_MS 2000

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned users;
static int own_end = -1, thread_end = -1; /* of the socket that the thread has as number 0 of its table; `thread_end` is closed when the thread has that */

/* The thread gets the address of an order with the descriptors for the child, and answers with a byte. */
typedef struct {
  fdb_child run;
  void *data;
  uint32_t count;
  pid_t pid;
  int error; /* of `failed` */
  const char *failed;
} order;

typedef union {
  char bytes[CMSG_SPACE(FDB_PASSED * sizeof(int))];
  struct cmsghdr header;
} control_room;

/* Leaves only the given descriptor in the table of this thread, as number 0. Linux before 6.13 copies some of those that it should leave out, and closes them again. */
static bool take_own_table(int end) {
  if (syscall(SYS_close_range, (unsigned)end + 1, ~0u, UNSHARE_FLAG) < 0 && unshare(CLONE_FILES) < 0) return false;
  if (end != 0 && dup2(end, 0) < 0) return false;
  fdb_close_from(1);
  return true;
}

static void carry_out(order *it, struct msghdr *message) {
  const struct cmsghdr *first = CMSG_FIRSTHDR(message);
  int fds[FDB_PASSED];
  it->pid = -1;
  it->error = EMFILE; /* not all descriptors have arrived */
  it->failed = "recvmsg";
  if (first != NULL && first->cmsg_len == CMSG_LEN(it->count * sizeof(int))) {
    memcpy(fds, CMSG_DATA(first), it->count * sizeof(int));
    it->failed = "fork";
    it->pid = fdb_plain_fork();
    it->error = errno;
    if (it->pid == 0) it->run(it->data, fds);
  }
  fdb_close_from(1);
}

static void *serve(void *end) {
  order *it;
  control_room room;
  struct iovec data = { &it, sizeof(it) };
  bool taken = take_own_table((int)(intptr_t)end);
  prctl(PR_SET_NAME, "fdb-start");
  if (send(taken ? 0 : (int)(intptr_t)end, &taken, 1, MSG_NOSIGNAL) != 1 || !taken) return NULL;
  for (;;) {
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof(room) };
    ssize_t size = recvmsg(0, &message, MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EINTR) continue;
    if (size != sizeof(it)) return NULL; /* the process has closed its end */
    carry_out(it, &message);
    if (send(0, "", 1, MSG_NOSIGNAL) != 1) return NULL;
  }
}

/* Call the following functions with the mutex. */
static void close_ends(void) {
  if (own_end >= 0) close(own_end);
  if (thread_end >= 0) close(thread_end);
  own_end = thread_end = -1;
}

/* Waits for the thread for at most `wait_ms`: the thread takes a while if the process was started with descriptors that close slowly. */
static bool is_ready(int wait_ms) {
  bool taken = false;
  struct pollfd answer = { .fd = own_end, .events = POLLIN };
  if (own_end < 0) return false;
  if (thread_end < 0) return true;
  while (poll(&answer, 1, wait_ms) < 0 && errno == EINTR) continue;
  if (recv(own_end, &taken, 1, MSG_DONTWAIT) != 1) return false;
  if (!taken) {
    close_ends();
    return false;
  }
  close(thread_end);
  thread_end = -1;
  return true;
}

static bool open_starter(void) {
  int ends[2];
  if (own_end < 0) {
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return false;
    own_end = ends[0];
    thread_end = ends[1];
    /* The children of the thread start with all signals blocked. */
    if (!fdb_start_thread(serve, (void *)(intptr_t)thread_end, 0)) close_ends();
  }
  return is_ready(OPENS_MS);
}

static bool pass(order *it, const int *fds) {
  control_room room;
  size_t bytes = it->count * sizeof(int);
  struct iovec data = { &it, sizeof(it) };
  struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = CMSG_SPACE(bytes) };
  memset(&room, 0, sizeof(room));
  room.header.cmsg_level = SOL_SOCKET;
  room.header.cmsg_type = SCM_RIGHTS;
  room.header.cmsg_len = CMSG_LEN(bytes);
  memcpy(CMSG_DATA(&room.header), fds, bytes);
  ssize_t size;
  do size = sendmsg(own_end, &message, MSG_NOSIGNAL);
  while (size < 0 && errno == EINTR);
  return size >= 0;
}

/* Returns -1 with errno. */
static pid_t fork_apart(order *it, const int *fds) {
  char answer;
  ssize_t size;
  it->failed = "sendmsg";
  if (!pass(it, fds)) return -1;
  do size = recv(own_end, &answer, 1, 0);
  while (size < 0 && errno == EINTR);
  if (size != 1) {
    it->failed = "recv";
    if (size == 0) errno = EPIPE; /* the thread has ended */
    return -1;
  }
  errno = it->error;
  return it->pid;
}
#endif

pid_t fdb_plain_fork(void) {
#if defined(__s390__)
  return (pid_t)syscall(SYS_clone, 0, SIGCHLD, 0, 0, 0);
#elif defined(__linux__)
  return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#else
  return fork();
#endif
}

static pid_t fork_here(fdb_child run, void *data, const int *fds) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = fdb_plain_fork();
  if (pid == 0) run(data, fds);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return pid;
}

pid_t fdb_fork(fdb_child run, void *data, const int *fds, uint32_t count, const char **failed) {
#ifdef __linux__
  if (count <= FDB_PASSED) {
    order it = { .run = run, .data = data, .count = count };
    pthread_mutex_lock(&mutex);
    bool apart = is_ready(0);
    pid_t pid = apart ? fork_apart(&it, fds) : -1;
    int error = errno;
    pthread_mutex_unlock(&mutex);
    *failed = it.failed;
    errno = error;
    if (apart) return pid;
  }
#else
  (void)count;
#endif
  *failed = "fork";
  return fork_here(run, data, fds);
}

/* Returns whether processes are started by the thread from now on. */
napi_value fdb_open_starter(napi_env env, napi_callback_info info) {
  fdb_call call;
  bool ready = false;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
#ifdef __linux__
  pthread_mutex_lock(&mutex);
  users++;
  ready = open_starter();
  pthread_mutex_unlock(&mutex);
#endif
  return fdb_bool_value(env, ready);
}

napi_value fdb_close_starter(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
#ifdef __linux__
  pthread_mutex_lock(&mutex);
  if (users > 0 && --users == 0) {
    is_ready(0);
    if (thread_end >= 0) thread_end = -1; /* the thread is about to copy it */
    close_ends();
  }
  pthread_mutex_unlock(&mutex);
#endif
  return fdb_undefined(env);
}

napi_value fdb_starts_apart(napi_env env, napi_callback_info info) {
  fdb_call call;
  bool ready = false;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
#ifdef __linux__
  pthread_mutex_lock(&mutex);
  ready = is_ready(0);
  pthread_mutex_unlock(&mutex);
#endif
  return fdb_bool_value(env, ready);
}
