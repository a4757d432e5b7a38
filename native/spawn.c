/* Starts a child with the given descriptors, with its own pid in its environment, and with a signal when its parent ends; or a
   grandchild whose parent, a guardian, ends when this process wants that: then init or a subreaper becomes its parent. Another guardian kills what
   is left of programs when this process has ended. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#define PID_DIGITS 10
#define STANDARD_FDS 3

/* Everything is prepared before the fork: until execve() the child may make only async-signal-safe calls, because the parent has threads. */
typedef struct {
  char *file, *cwd;
  char **argv, **env;
  char *pid_at; /* where the child writes its pid into `env`; NULL: nowhere */
  int fds[FDB_SCRATCH]; /* the child gets them as 0, 1, 2, …; the size that fdb_copy_fds() needs */
  uint32_t count;
  bool in_session; /* the child is the leader of a new session, not only of a new process group */
  int death_signal;
  pid_t parent;
  int report;
} start;

/* A guardian's message with the pid of its child, or the failure of a call. */
typedef struct {
  int error; /* 0: none */
  pid_t pid;
  char syscall[12];
} failure;

static void fail(const start *it, const char *syscall) {
  failure why = { .error = errno };
  snprintf(why.syscall, sizeof(why.syscall), "%s", syscall);
  ssize_t ignored = write(it->report, &why, sizeof(why));
  (void)ignored;
  _exit(127);
}

static void write_pid(char *at) {
  char digits[PID_DIGITS];
  int count = 0;
  for (pid_t rest = getpid(); rest > 0 && count < PID_DIGITS; rest /= 10) digits[count++] = (char)('0' + rest % 10);
  while (count > 0) *at++ = digits[--count];
  *at = 0;
}

static void run(start *it) {
  struct sigaction usual = { .sa_handler = SIG_DFL };
  /* Resets all signals: Node ignores SIGPIPE, and the next program would inherit that. */
  for (int number = 1; number < NSIG; number++) sigaction(number, &usual, NULL);
  if (it->in_session ? setsid() < 0 : setpgid(0, 0) < 0) fail(it, it->in_session ? "setsid" : "setpgid");
#ifdef __linux__
  if (it->death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, it->death_signal, 0, 0, 0) < 0) fail(it, "prctl");
    if (getppid() != it->parent) _exit(127); /* the parent has ended before prctl() */
  }
#endif
  if (it->cwd[0] != 0 && chdir(it->cwd) < 0) fail(it, "chdir");
  /* First copies all descriptors above the new numbers: a descriptor may have the new number of another one. */
  int above = (int)it->count;
  int report = fcntl(it->report, F_DUPFD_CLOEXEC, above);
  if (report < 0) fail(it, "dup");
  it->report = report;
  for (uint32_t i = 0; i < it->count; i++)
    if ((it->fds[i] = fcntl(it->fds[i], F_DUPFD_CLOEXEC, above)) < 0) fail(it, "dup");
  for (uint32_t i = 0; i < it->count; i++)
    if (dup2(it->fds[i], (int)i) < 0) fail(it, "dup2");
  fdb_close_at_exec(above); /* some descriptors may lack CLOEXEC, because this process has inherited them */
  if (it->pid_at != NULL) write_pid(it->pid_at);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execve(it->file, it->argv, it->env);
  fail(it, "execve");
}

static void run_child(void *data, const int *fds) {
  start *it = data;
  memmove(it->fds, fds, it->count * sizeof(int));
  it->report = fds[it->count];
  run(it);
}

/* Waits until the child has executed the program, or has reported a failure. */
static napi_value begin(napi_env env, start *it) {
  int ends[2];
  failure why;
  const char *failed = "fork";
#ifdef __linux__
  if (pipe2(ends, O_CLOEXEC) < 0) return fdb_throw(env, errno, "pipe");
#else
  if (pipe(ends) < 0) return fdb_throw(env, errno, "pipe");
  fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  fcntl(ends[1], F_SETFD, FD_CLOEXEC);
#endif
  it->parent = getpid();
  it->fds[it->count] = ends[1];
  pid_t pid = fdb_fork(run_child, it, it->fds, it->count + 1, &failed);
  int error = errno;
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return fdb_throw(env, error, failed);
  }
  ssize_t size;
  do size = read(ends[0], &why, sizeof(why));
  while (size < 0 && errno == EINTR);
  close(ends[0]);
  if (size != (ssize_t)sizeof(why)) return fdb_int_value(env, pid);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
  return fdb_throw(env, why.error, why.syscall);
}

#ifdef __linux__
#define LARGE (128u << 10)
#define LINE 512

static uintptr_t hex(const char *text, const char **end) {
  uintptr_t value = 0;
  for (;; text++) {
    int digit = *text >= '0' && *text <= '9' ? *text - '0' : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10 : -1;
    if (digit < 0) break;
    value = value << 4 | (uintptr_t)digit;
  }
  *end = text;
  return value;
}

/* Gives back the large anonymous memory of one line of /proc/self/maps, unless this function's stack or the thread's variables are in it. */
static void drop_line(const char *line) {
  const char *at;
  uintptr_t start = hex(line, &at), end = *at == '-' ? hex(at + 1, &at) : 0;
  uintptr_t stack = (uintptr_t)&at, variables = (uintptr_t)&errno;
  if (end <= start || end - start < LARGE || strncmp(at, " rw-p ", 6) != 0) return;
  if ((stack >= start && stack < end) || (variables >= start && variables < end)) return;
  for (int fields = 0; fields < 4; fields++) { /* permissions, offset, device, inode */
    while (*at == ' ') at++;
    if (fields == 3 && !(at[0] == '0' && (at[1] == ' ' || at[1] == 0))) return;
    while (*at != ' ' && *at != 0) at++;
  }
  madvise((void *)start, end - start, MADV_DONTNEED);
}

/* A forked process shares its parent's memory until one of them writes to it: without this, the kernel would copy every page that the parent writes.
   Afterwards only syscall() may be called: to find other functions, the loader needs its memory. */
static void drop_memory(void) {
#ifdef __SANITIZE_ADDRESS__ /* a sanitizer's own memory, which its checks and wrappers read, is anonymous too */
  (void)drop_line;
}
#else
  char buffer[4096], line[LINE];
  size_t length = 0;
  int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return;
  for (ssize_t size; (size = read(maps, buffer, sizeof(buffer))) > 0;)
    for (ssize_t i = 0; i < size; i++) {
      if (buffer[i] != '\n') {
        if (length < LINE - 1) line[length++] = buffer[i];
        continue;
      }
      line[length] = 0;
      length = 0;
      drop_line(line);
    }
  syscall(SYS_close, maps);
}
#endif

/* The guardian: starts the program, writes its end to `leash`, and ends when the other end of `leash` is closed. Keeps all signals blocked, because a
   signal to a whole session or control group is not for it. Does not reap the program: until the guardian has ended, its pid belongs to no other process. */
static void guard(start *it, int leash) {
  pid_t pid = fdb_plain_fork();
  if (pid == 0) {
    it->parent = getppid();
    run(it);
  }
  if (pid < 0) fail(it, "fork");
  failure started = { .pid = pid };
  ssize_t ignored = write(it->report, &started, sizeof(started));
  (void)ignored;
  if (dup2(leash, 0) < 0) _exit(0);
  fdb_close_from(1);
  if (chdir("/") < 0) errno = 0;
  prctl(PR_SET_NAME, "fdb-guardian");
  drop_memory();
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  struct pollfd watched[] = { { .fd = 0, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
  for (;;) {
    if (syscall(SYS_ppoll, watched, 2, NULL, NULL, 0) < 0) continue;
    if (watched[0].revents != 0) syscall(SYS_exit_group, 0);
    if (watched[1].revents == 0) continue;
    siginfo_t ended = { 0 };
    if (syscall(SYS_waitid, P_PID, pid, &ended, WEXITED | WNOWAIT, NULL) < 0) continue;
    int32_t how = ended.si_code == CLD_EXITED ? ended.si_status : -ended.si_status;
    syscall(SYS_sendto, 0, &how, sizeof(how), MSG_NOSIGNAL, NULL, 0);
    watched[1].fd = -1;
  }
}

static void guard_child(void *data, const int *fds) {
  start *it = data;
  memmove(it->fds, fds, it->count * sizeof(int));
  it->report = fds[it->count];
  guard(it, fds[it->count + 1]);
}

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

#define MAX_MARKS (16u << 10)
#define MAX_MARK 128
#define PASSES 500
#define PASS_NS 10000000

/* Returns 0 unless the name is a number. */
static pid_t number(const char *name) {
  long value = 0;
  for (; *name >= '0' && *name <= '9' && value < INT_MAX / 10; name++) value = value * 10 + (*name - '0');
  return *name == 0 ? (pid_t)value : 0;
}

/* Reports whether `entry` is one of the strings in `marks`, each ended by NUL. Volatile: the compiler must not make calls of it, see drop_memory(). */
static bool is_mark(const volatile char *entry, size_t length, const volatile char *marks, size_t size) {
  for (size_t from = 0, at = 0; at < size; at++) {
    if (marks[at] != 0) continue;
    bool same = at - from == length;
    for (size_t i = 0; same && i < length; i++) same = marks[from + i] == entry[i];
    if (same) return true;
    from = at + 1;
  }
  return false;
}

/* Reports whether a process has one of the marks in its environment: a process that has ended has no environment. */
static bool is_marked(int folder, const volatile char *marks, size_t size) {
  volatile char entry[MAX_MARK];
  int file = (int)syscall(SYS_openat, folder, "environ", O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char buffer[4096];
  bool found = false;
  size_t length = 0;
  for (long read; !found && (read = syscall(SYS_read, file, buffer, sizeof(buffer))) > 0;)
    for (long i = 0; !found && i < read; i++) {
      if (buffer[i] != 0) {
        if (length < MAX_MARK) entry[length] = buffer[i];
        length++;
        continue;
      }
      found = length < MAX_MARK && is_mark(entry, length, marks, size);
      length = 0;
    }
  syscall(SYS_close, file);
  return found;
}

/* Sends SIGKILL to the process that has this folder in /proc, and no other one, also if it has ended; if a filter of system calls refuses that, by its number. */
static bool kill_one(int folder, pid_t pid) {
  return syscall(SYS_pidfd_send_signal, folder, SIGKILL, NULL, 0) == 0 || (errno != ESRCH && syscall(SYS_kill, pid, SIGKILL) == 0);
}

/* Kills all processes that have a mark. Returns whether there was one. */
static bool kill_marked(int proc, const volatile char *marks, size_t size) {
  _Alignas(fdb_entry) char entries[4096];
  bool any = false;
  syscall(SYS_lseek, proc, 0, SEEK_SET);
  for (long read; (read = syscall(SYS_getdents64, proc, entries, sizeof(entries))) > 0;)
    for (long at = 0; at < read;) {
      const fdb_entry *next = (const fdb_entry *)(entries + at);
      at += next->length;
      pid_t pid = number(next->name);
      int folder = pid == 0 ? -1 : (int)syscall(SYS_openat, proc, next->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (folder < 0) continue;
      if (is_marked(folder, marks, size) && kill_one(folder, pid)) any = true;
      syscall(SYS_close, folder);
    }
  return any;
}

/* Waits until the other end of `leash` is closed, because its process has ended in any way; then kills the processes that have one of the marks in the file
   `marks`. As guard(), it keeps all signals blocked. */
static void watch_end(int leash, int marks) {
  if (dup2(leash, 0) < 0 || dup2(marks, 1) < 0 || setsid() < 0) _exit(0);
  int proc = open("/proc", O_RDONLY | O_DIRECTORY);
  if (proc < 0 || dup2(proc, 2) < 0) _exit(0);
  fdb_close_from(3);
  if (chdir("/") < 0) errno = 0;
  prctl(PR_SET_NAME, "fdb-guardian");
  drop_memory();
  volatile char text[MAX_MARKS];
  struct pollfd watched = { .fd = 0, .events = POLLIN };
  while (syscall(SYS_ppoll, &watched, 1, NULL, NULL, 0) < 0) continue;
  long size = syscall(SYS_read, 1, text, sizeof(text));
  for (int pass = 0; size > 0 && pass < PASSES && kill_marked(2, text, (size_t)size); pass++) {
    struct timespec pause = { .tv_nsec = PASS_NS };
    syscall(SYS_ppoll, NULL, 0, &pause, NULL, 0);
  }
  syscall(SYS_exit_group, 0);
}

static void watch_child(void *unused, const int *fds) {
  (void)unused;
  watch_end(fds[0], fds[1]);
}

/* Returns the end of the leash that this process keeps. */
static napi_value begin_watching(const fdb_call *call, int marks) {
  int leash[2];
  const char *failed = "fork";
  if (fcntl(marks, F_GETFD) < 0) return fdb_throw(call->env, errno, "fcntl");
  if (pipe2(leash, O_CLOEXEC) < 0) return fdb_throw(call->env, errno, "pipe");
  pid_t pid = fdb_fork(watch_child, NULL, (const int[]){ leash[0], marks }, 2, &failed);
  int error = errno;
  close(leash[0]);
  if (pid >= 0) return fdb_owned_value(call->self, leash[1]);
  close(leash[1]);
  return fdb_throw(call->env, error, failed);
}

/* Returns [the program's pid, the guardian's pid, `leash`]. */
static napi_value begin_guarded(const fdb_call *call, start *it) {
  napi_env env = call->env;
  int ends[2], leash[2];
  failure message, why = { 0 };
  const char *failed = "fork";
  pid_t pid = 0;
  if (pipe2(ends, O_CLOEXEC) < 0) return fdb_throw(env, errno, "pipe");
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, leash) < 0) {
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return fdb_throw(env, error, "socketpair");
  }
  it->fds[it->count] = ends[1];
  it->fds[it->count + 1] = leash[1];
  pid_t guardian = fdb_fork(guard_child, it, it->fds, it->count + 2, &failed);
  int error = errno;
  close(ends[1]);
  close(leash[1]);
  if (guardian < 0) {
    why.error = error;
    snprintf(why.syscall, sizeof(why.syscall), "%s", failed);
  }
  /* Until the guardian and the program have closed their ends. */
  for (;;) {
    ssize_t size = read(ends[0], &message, sizeof(message));
    if (size < 0 && errno == EINTR) continue;
    if (size != (ssize_t)sizeof(message)) break;
    if (message.error != 0) why = message;
    else pid = message.pid;
  }
  close(ends[0]);
  if (why.error == 0 && pid == 0) why = (failure){ .error = ECHILD, .syscall = "fork" }; /* the guardian was killed */
  if (why.error != 0) {
    close(leash[0]);
    if (guardian > 0)
      while (waitpid(guardian, NULL, 0) < 0 && errno == EINTR) continue;
    /* A subreaper, or the first process of a container, is the parent of the failed program now. Otherwise: ECHILD. */
    if (pid > 0)
      while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
    return fdb_throw(env, why.error, why.syscall);
  }
  napi_value result, owned = fdb_owned_value(call->self, leash[0]);
  if (owned == NULL || napi_create_array_with_length(env, 3, &result) != napi_ok ||
      napi_set_element(env, result, 0, fdb_int_value(env, pid)) != napi_ok ||
      napi_set_element(env, result, 1, fdb_int_value(env, guardian)) != napi_ok ||
      napi_set_element(env, result, 2, owned) != napi_ok)
    return NULL;
  return result;
}
#endif

napi_value fdb_spawn(napi_env env, napi_callback_info info) {
  fdb_call call;
  char *words, *variables;
  size_t words_length, variables_length, count, variable_count;
  uint32_t length;
  int pid_at;
  start it = { 0 };
  if (!fdb_enter(env, info, 5, &call) || !fdb_int(env, call.argv[2], "pidAt", -1, INT_MAX, &pid_at) ||
      !fdb_array_length(env, call.argv[3], "fds", &length) ||
      !fdb_int(env, call.argv[4], "deathSignal", 0, 64, &it.death_signal) ||
      (call.argc > 5 && !fdb_bool(env, call.argv[5], "inSession", &it.in_session)))
    return NULL;
  if (length > FDB_MAX_FDS) return fdb_throw_range(env, "at most %d descriptors, got %u", FDB_MAX_FDS, length);
  /* Reads the buffers last: a getter of the array could detach them. */
  if (!fdb_copy_fds(call.self, call.argv[3], 0, it.fds, &it.count) ||
      !fdb_strings(env, call.argv[0], "words", &words, &words_length) ||
      !fdb_strings(env, call.argv[1], "env", &variables, &variables_length))
    return NULL;
  if (!it.in_session) {
    memmove(it.fds + STANDARD_FDS, it.fds, it.count * sizeof(int));
    for (int fd = 0; fd < STANDARD_FDS; fd++) it.fds[fd] = fd;
    it.count += STANDARD_FDS;
  }
  if (pid_at >= 0 && (size_t)pid_at + PID_DIGITS >= variables_length)
    return fdb_throw_range(env, "pidAt %d leaves no room in an environment of %zu bytes", pid_at, variables_length);
  char **all = fdb_split(words, words_length, &count);
  it.env = fdb_split(variables, variables_length, &variable_count);
  napi_value result = NULL;
  if (all == NULL || it.env == NULL) fdb_throw(env, ENOMEM, "calloc");
  else if (count < 3) fdb_throw_range(env, "words are file, folder and argv[0] at least, got %zu", count);
  else {
    it.file = all[0];
    it.cwd = all[1];
    it.argv = all + 2;
    it.pid_at = pid_at < 0 ? NULL : variables + pid_at;
    result = begin(env, &it);
  }
  free(all);
  free(it.env);
  return result;
}

napi_value fdb_spawn_guarded(napi_env env, napi_callback_info info) {
#ifdef __linux__
  fdb_call call;
  char *words, *variables;
  size_t words_length, variables_length, count, variable_count;
  start it = { .in_session = true };
  if (!fdb_enter(env, info, 3, &call) || !fdb_array_length(env, call.argv[2], "standard", &it.count)) return NULL;
  if (it.count != STANDARD_FDS) return fdb_throw_range(env, "%d standard descriptors, got %u", STANDARD_FDS, it.count);
  for (uint32_t i = 0; i < STANDARD_FDS; i++) {
    napi_value number;
    if (napi_get_element(env, call.argv[2], i, &number) != napi_ok || !fdb_int(env, number, "standard", 0, INT_MAX, &it.fds[i]))
      return NULL;
  }
  /* Reads the buffers last: a getter of the array could detach them. */
  if (!fdb_strings(env, call.argv[0], "words", &words, &words_length) ||
      !fdb_strings(env, call.argv[1], "env", &variables, &variables_length))
    return NULL;
  char **all = fdb_split(words, words_length, &count);
  it.env = fdb_split(variables, variables_length, &variable_count);
  napi_value result = NULL;
  if (all == NULL || it.env == NULL) fdb_throw(env, ENOMEM, "calloc");
  else if (count < 3) fdb_throw_range(env, "words are file, folder and argv[0] at least, got %zu", count);
  else {
    it.file = all[0];
    it.cwd = all[1];
    it.argv = all + 2;
    result = begin_guarded(&call, &it);
  }
  free(all);
  free(it.env);
  return result;
#else
  (void)info;
  return fdb_throw(env, ENOSYS, "fork");
#endif
}

napi_value fdb_kill_at_end(napi_env env, napi_callback_info info) {
  fdb_call call;
  int marks;
  if (!fdb_enter(env, info, 1, &call) || !fdb_fd(env, call.argv[0], "marks", &marks)) return NULL;
#ifdef __linux__
  return begin_watching(&call, marks);
#else
  return fdb_throw(env, ENOSYS, "fork");
#endif
}
