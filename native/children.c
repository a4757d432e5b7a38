/* Adopts descendants whose parents have ended, and reaps them. */
#include "fdb.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

napi_value fdb_adopt_orphans(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
#ifdef __linux__
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) return fdb_throw(env, errno, "prctl");
  return fdb_bool_value(env, true);
#else
  return fdb_bool_value(env, false);
#endif
}

/* Returns the pid of a child that has ended, 0 if none has, -1 if there is no child. Does not reap the child, because Node may have started it. */
napi_value fdb_ended_child(napi_env env, napi_callback_info info) {
  fdb_call call;
  siginfo_t ended;
  int result;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  memset(&ended, 0, sizeof(ended));
  do result = waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT);
  while (result < 0 && errno == EINTR);
  if (result < 0) return errno == ECHILD ? fdb_int_value(env, -1) : fdb_throw(env, errno, "waitid");
  return fdb_int_value(env, ended.si_pid);
}

/* Returns the child's exit code, or the negative number of the signal that ended it; null if it still runs, or is no child of this process. */
napi_value fdb_reap_child(napi_env env, napi_callback_info info) {
  fdb_call call;
  siginfo_t ended;
  int pid, result;
  if (!fdb_enter(env, info, 1, &call) || !fdb_int(env, call.argv[0], "pid", 1, INT_MAX, &pid)) return NULL;
  memset(&ended, 0, sizeof(ended));
  do result = waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG);
  while (result < 0 && errno == EINTR);
  if (result < 0) return errno == ECHILD ? fdb_null(env) : fdb_throw(env, errno, "waitid");
  if (ended.si_pid == 0) return fdb_null(env);
  return fdb_int_value(env, ended.si_code == CLD_EXITED ? ended.si_status : -ended.si_status);
}
