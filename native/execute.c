/* Another program in the place of this one: the same process, with its children and the descriptors that are named. */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define STANDARD_FDS 3

/* Returns only when it has failed: then all is as it was. */
static int execute(char **words, char **variables, const int *fds, uint32_t count, const char **failed) {
  const char *file = words[0], *cwd = words[1];
  int standard[STANDARD_FDS], before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *failed = "chdir";
  if (cwd[0] != 0 && chdir(cwd) < 0) {
    int error = errno;
    if (before >= 0) close(before);
    return error;
  }
  fdb_close_at_exec(STANDARD_FDS);
  for (int fd = 0; fd < STANDARD_FDS; fd++) {
    standard[fd] = fcntl(fd, F_GETFD);
    fcntl(fd, F_SETFD, 0);
  }
  for (uint32_t i = 0; i < count; i++) fcntl(fds[i], F_SETFD, 0);
  *failed = "execve";
  execve(file, words + 2, variables);
  int error = errno;
  for (uint32_t i = 0; i < count; i++) fcntl(fds[i], F_SETFD, FD_CLOEXEC);
  for (int fd = 0; fd < STANDARD_FDS; fd++)
    if (standard[fd] >= 0) fcntl(fd, F_SETFD, standard[fd]);
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
  uint32_t length, count;
  int fds[FDB_SCRATCH];
  if (!fdb_enter(env, info, 3, &call) || !fdb_array_length(env, call.argv[2], "fds", &length)) return NULL;
  if (length > FDB_SCRATCH) return fdb_throw_range(env, "at most %d descriptors, got %u", FDB_SCRATCH, length);
  /* Getters of the array may detach the buffers: those are looked at when nobody else's code runs any more. */
  if (!fdb_copy_fds(call.self, call.argv[2], 0, fds, &count) ||
      !fdb_strings(env, call.argv[0], "words", &words, &words_length) ||
      !fdb_strings(env, call.argv[1], "env", &variables, &variables_length))
    return NULL;
  char **all = fdb_split(words, words_length, &word_count);
  char **its_env = fdb_split(variables, variables_length, &variable_count);
  if (all == NULL || its_env == NULL) fdb_throw(env, ENOMEM, "calloc");
  else if (word_count < 3) fdb_throw_range(env, "words are file, folder and argv[0] at least, got %zu", word_count);
  else {
    const char *failed;
    int error = execute(all, its_env, fds, count, &failed);
    fdb_throw(env, error, failed);
  }
  free(all);
  free(its_env);
  return NULL;
}
