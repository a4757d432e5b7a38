/* Replaces the program of this process (execve). Keeps its children and the given descriptors. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define STANDARD_FDS 3
#define KEEP_NUMBERS -1

typedef struct {
  char **words, **variables;
  int first; /* the descriptors become first, first + 1, …; KEEP_NUMBERS: they keep their numbers */
  uint32_t count;
  int fds[FDB_SCRATCH];
  int before[FDB_SCRATCH]; /* copies of the descriptors that had the new numbers before; -1: none */
  uint32_t ready, replaced;
} image;

/* Gives the descriptors their new numbers. take_back() undoes this, also if it failed halfway. */
static bool place(image *it) {
  int above = it->first + (int)it->count;
  for (uint32_t i = 0; i < it->count; i++) {
    /* First copies all descriptors above the new numbers: a descriptor may have the new number of another one. */
    int source = fcntl(it->fds[i], F_DUPFD_CLOEXEC, above);
    if (source < 0) return false;
    it->fds[i] = source;
    it->before[i] = fcntl(it->first + (int)i, F_DUPFD_CLOEXEC, above);
    it->ready = i + 1;
    if (it->before[i] < 0 && errno != EBADF) return false;
  }
  for (; it->replaced < it->count; it->replaced++)
    if (dup2(it->fds[it->replaced], it->first + (int)it->replaced) < 0) return false;
  return true;
}

static void take_back(image *it) {
  for (uint32_t i = 0; i < it->ready; i++) {
    int number = it->first + (int)i;
    if (i < it->replaced) {
      if (it->before[i] < 0) close(number);
      else if (dup2(it->before[i], number) >= 0) fcntl(number, F_SETFD, FD_CLOEXEC);
    }
    if (it->before[i] >= 0) close(it->before[i]);
    close(it->fds[i]);
  }
}

/* Makes stdin, stdout and stderr inheritable and blocking again, as they were before Node changed them. */
static void open_standard(const int *flags, const int *modes) {
  for (int fd = 0; fd < STANDARD_FDS; fd++) {
    struct stat about;
    if (flags[fd] < 0) continue;
    fcntl(fd, F_SETFD, 0);
    if (modes[fd] & O_NONBLOCK && fstat(fd, &about) == 0 && (S_ISFIFO(about.st_mode) || S_ISSOCK(about.st_mode)))
      fcntl(fd, F_SETFL, modes[fd] & ~O_NONBLOCK);
  }
}

/* Returns only after a failure: the errno, and the failed call in `*failed`. Undoes its changes first, except CLOEXEC on descriptors. */
static int execute(image *it, const char **failed) {
  const char *file = it->words[0], *cwd = it->words[1];
  int flags[STANDARD_FDS], modes[STANDARD_FDS], before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error;
  *failed = "chdir";
  if (cwd[0] != 0 && chdir(cwd) < 0) {
    error = errno;
    if (before >= 0) close(before);
    return error;
  }
  fdb_close_at_exec(STANDARD_FDS);
  for (int fd = 0; fd < STANDARD_FDS; fd++) {
    flags[fd] = fcntl(fd, F_GETFD);
    modes[fd] = fcntl(fd, F_GETFL);
  }
  *failed = "dup";
  if (it->first == KEEP_NUMBERS || place(it)) {
    /* Resets signals that Node ignores: otherwise the next program would ignore them too. */
    struct sigaction usual = { .sa_handler = SIG_DFL }, actions[NSIG];
    bool ignored[NSIG] = { false };
    sigset_t held, mask;
    fdb_held_signals(&held);
    open_standard(flags, modes);
    if (it->first == KEEP_NUMBERS)
      for (uint32_t i = 0; i < it->count; i++) fcntl(it->fds[i], F_SETFD, 0);
    for (int number = 1; number < NSIG; number++) {
      ignored[number] = sigaction(number, NULL, &actions[number]) == 0 && actions[number].sa_handler == SIG_IGN;
      if (ignored[number]) sigaction(number, &usual, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &held, &mask);
    *failed = "execve";
    execve(file, it->words + 2, it->variables);
    error = errno;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    for (int number = 1; number < NSIG; number++)
      if (ignored[number]) sigaction(number, &actions[number], NULL);
    for (int fd = 0; fd < STANDARD_FDS; fd++) {
      if (flags[fd] >= 0) fcntl(fd, F_SETFD, flags[fd]);
      if (modes[fd] >= 0) fcntl(fd, F_SETFL, modes[fd]);
    }
    if (it->first == KEEP_NUMBERS)
      for (uint32_t i = 0; i < it->count; i++) fcntl(it->fds[i], F_SETFD, FD_CLOEXEC);
  } else error = errno;
  if (it->first != KEEP_NUMBERS) take_back(it);
  if (before >= 0) {
    if (cwd[0] != 0 && fchdir(before) < 0) *failed = "fchdir";
    close(before);
  }
  return error;
}

napi_value fdb_execute(napi_env env, napi_callback_info info) {
  fdb_call call;
  char *words, *variables;
  size_t words_length, variables_length, word_count, variable_count;
  uint32_t length;
  image it = { .first = KEEP_NUMBERS };
  if (!fdb_enter(env, info, 3, &call) || !fdb_array_length(env, call.argv[2], "fds", &length) ||
      (call.argc > 3 && !fdb_int(env, call.argv[3], "first", STANDARD_FDS, INT_MAX - FDB_SCRATCH, &it.first)))
    return NULL;
  if (length > FDB_SCRATCH) return fdb_throw_range(env, "at most %d descriptors, got %u", FDB_SCRATCH, length);
  /* Reads the buffers last: a getter of the array could detach them. */
  if (!fdb_copy_fds(call.self, call.argv[2], 0, it.fds, &it.count) ||
      !fdb_strings(env, call.argv[0], "words", &words, &words_length) ||
      !fdb_strings(env, call.argv[1], "env", &variables, &variables_length))
    return NULL;
  it.words = fdb_split(words, words_length, &word_count);
  it.variables = fdb_split(variables, variables_length, &variable_count);
  if (it.words == NULL || it.variables == NULL) fdb_throw(env, ENOMEM, "calloc");
  else if (word_count < 3) fdb_throw_range(env, "words are file, folder and argv[0] at least, got %zu", word_count);
  else {
    const char *failed;
    int error = execute(&it, &failed);
    fdb_throw(env, error, failed);
  }
  free(it.words);
  free(it.variables);
  return NULL;
}
