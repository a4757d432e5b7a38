/* Starts a child with the given descriptors as numbers 3, 4, …, with its own pid in its environment, and with a signal when its parent ends. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#define PID_DIGITS 10
#define FIRST_FD 3

/* What the child needs is prepared before the fork: until execve() the child may make only async-signal-safe calls, because the parent has threads. */
typedef struct {
  char *file, *cwd;
  char **argv, **env;
  char *pid_at; /* where the child writes its pid into `env`; NULL: nowhere */
  int fds[FDB_SCRATCH]; /* the size that fdb_copy_fds() needs; at most FDB_MAX_FDS are used */
  uint32_t count;
  int death_signal;
  pid_t parent;
  int report;
} start;

typedef struct {
  int error;
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
  if (setpgid(0, 0) < 0) fail(it, "setpgid");
#ifdef __linux__
  if (it->death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, it->death_signal, 0, 0, 0) < 0) fail(it, "prctl");
    if (getppid() != it->parent) _exit(127); /* the parent has ended before prctl() */
  }
#endif
  if (it->cwd[0] != 0 && chdir(it->cwd) < 0) fail(it, "chdir");
  /* First copies all descriptors above the new numbers: a descriptor may have the new number of another one. */
  int above = FIRST_FD + (int)it->count;
  int report = fcntl(it->report, F_DUPFD_CLOEXEC, above);
  if (report < 0) fail(it, "dup");
  it->report = report;
  for (uint32_t i = 0; i < it->count; i++)
    if ((it->fds[i] = fcntl(it->fds[i], F_DUPFD_CLOEXEC, above)) < 0) fail(it, "dup");
  for (uint32_t i = 0; i < it->count; i++)
    if (dup2(it->fds[i], FIRST_FD + (int)i) < 0) fail(it, "dup2");
  /* The child inherits stdin, stdout and stderr, on which Node has set CLOEXEC. */
  for (int fd = 0; fd < FIRST_FD; fd++) fcntl(fd, F_SETFD, 0);
  fdb_close_at_exec(above); /* some descriptors may lack CLOEXEC, because this process has inherited them */
  if (it->pid_at != NULL) write_pid(it->pid_at);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execve(it->file, it->argv, it->env);
  fail(it, "execve");
}

/* Waits until the child has executed the program, or has reported a failure. */
static napi_value begin(napi_env env, start *it) {
  int ends[2];
  failure why;
  sigset_t all, before;
#ifdef __linux__
  if (pipe2(ends, O_CLOEXEC) < 0) return fdb_throw(env, errno, "pipe");
#else
  if (pipe(ends) < 0) return fdb_throw(env, errno, "pipe");
  fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  fcntl(ends[1], F_SETFD, FD_CLOEXEC);
#endif
  it->report = ends[1];
  it->parent = getpid();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) run(it);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return fdb_throw(env, error, "fork");
  }
  ssize_t size;
  do size = read(ends[0], &why, sizeof(why));
  while (size < 0 && errno == EINTR);
  close(ends[0]);
  if (size != (ssize_t)sizeof(why)) return fdb_int_value(env, pid);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
  return fdb_throw(env, why.error, why.syscall);
}

napi_value fdb_spawn(napi_env env, napi_callback_info info) {
  fdb_call call;
  char *words, *variables;
  size_t words_length, variables_length, count, variable_count;
  uint32_t length;
  int pid_at;
  start it = { 0 };
  if (!fdb_enter(env, info, 5, &call) || !fdb_int(env, call.argv[2], "pidAt", -1, INT_MAX, &pid_at) ||
      !fdb_array_length(env, call.argv[3], "fds", &length) ||
      !fdb_int(env, call.argv[4], "deathSignal", 0, 64, &it.death_signal))
    return NULL;
  if (length > FDB_MAX_FDS) return fdb_throw_range(env, "at most %d descriptors, got %u", FDB_MAX_FDS, length);
  /* Reads the buffers last: a getter of the array could detach them. */
  if (!fdb_copy_fds(call.self, call.argv[3], 0, it.fds, &it.count) ||
      !fdb_strings(env, call.argv[0], "words", &words, &words_length) ||
      !fdb_strings(env, call.argv[1], "env", &variables, &variables_length))
    return NULL;
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
