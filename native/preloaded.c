/*
 * Replaces pthread_sigmask() if the addon is preloaded (LD_PRELOAD). Node resets the signal mask when it starts, long before the
 * program installs its handlers: a signal in between would end the process. So the signals in FD_BROKER_HELD_SIGNALS (bit n - 1
 * is signal n) stay blocked until one SIG_UNBLOCK includes all of them. If Node loads the addon normally, the C library's
 * function is used instead.
 */
#ifdef __linux__
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KERNEL_MASK_BYTES (_NSIG / 8)
#define SIGNALS 31
/* Internal signals of the C library, which must never be blocked. */
#define FIRST_OWN 32
#define LAST_OWN 33

static uint32_t held;
static pid_t holding; /* the process that holds signals: a forked child holds none, because it will execute another program */

static bool all_named(const sigset_t *set) {
  for (int number = 1; number <= SIGNALS; number++)
    if (held >> (number - 1) & 1 && !sigismember(set, number)) return false;
  return true;
}

__attribute__((visibility("default"))) int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
  sigset_t changed;
  if (holding == 0) {
    const char *text = getenv("FD_BROKER_HELD_SIGNALS");
    holding = (pid_t)syscall(SYS_getpid);
    held = text == NULL ? 0 : (uint32_t)strtoul(text, NULL, 10) & INT32_MAX;
  }
  if (set != NULL) {
    changed = *set;
    if (how != SIG_UNBLOCK)
      for (int number = FIRST_OWN; number <= LAST_OWN; number++) sigdelset(&changed, number);
    if (held != 0 && (pid_t)syscall(SYS_getpid) == holding) {
      if (how == SIG_UNBLOCK && all_named(set)) held = 0;
      for (int number = 1; number <= SIGNALS; number++) {
        if (!(held >> (number - 1) & 1)) continue;
        if (how == SIG_UNBLOCK) sigdelset(&changed, number);
        else sigaddset(&changed, number);
      }
    }
    set = &changed;
  }
  return syscall(SYS_rt_sigprocmask, how, set, before, KERNEL_MASK_BYTES) == 0 ? 0 : errno;
}
#else
typedef int nothing_is_preloaded;
#endif
