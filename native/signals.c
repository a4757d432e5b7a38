/* Holds signals for the next program of this process: execve() keeps signals that are blocked and pending, while the next program would miss those
   that a handler of this program has received. Records who sends watched signals. */
#include "fdb.h"

#include <signal.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#define SIGNALS 31

static bool holding;
static bool is_held[SIGNALS + 1];
static struct sigaction actions[SIGNALS + 1];
static volatile sig_atomic_t came[SIGNALS + 1];
static pid_t thread;

#ifdef __linux__
static pid_t own_thread(void) {
  return (pid_t)syscall(SYS_gettid);
}

static void send_to_thread(int number) {
  syscall(SYS_tgkill, getpid(), thread, number);
}
#else
static pid_t own_thread(void) {
  return 0;
}

static void send_to_thread(int number) {
  kill(getpid(), number);
}
#endif

/* Handles a held signal that arrived before `thread` blocked it, or that another thread received: `thread` gets it again, and keeps it pending. */
static void keep(int number) {
  if (own_thread() == thread) came[number] = 1;
  else send_to_thread(number);
}

void fdb_held_signals(sigset_t *set) {
  sigemptyset(set);
  for (int number = 1; number <= SIGNALS; number++)
    if (is_held[number]) sigaddset(set, number);
}

napi_value fdb_hold_signals(napi_env env, napi_callback_info info) {
  fdb_call call;
  int mask;
  if (!fdb_enter(env, info, 1, &call) || !fdb_int(env, call.argv[0], "signals", 0, INT32_MAX, &mask)) return NULL;
  if (holding) return fdb_throw_range(env, "signals are held already");
  struct sigaction kept = { .sa_handler = keep, .sa_flags = SA_RESTART };
  sigset_t set;
  sigfillset(&kept.sa_mask);
  thread = own_thread();
  holding = true;
  for (int number = 1; number <= SIGNALS; number++) {
    came[number] = 0;
    is_held[number] = mask >> (number - 1) & 1 && sigaction(number, &kept, &actions[number]) == 0;
  }
  fdb_held_signals(&set);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  for (int number = 1; number <= SIGNALS; number++)
    if (came[number]) send_to_thread(number);
  return NULL;
}

napi_value fdb_release_signals(napi_env env, napi_callback_info info) {
  fdb_call call;
  sigset_t set, before;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  if (holding) {
    fdb_held_signals(&set);
    for (int number = 1; number <= SIGNALS; number++) {
      if (is_held[number]) sigaction(number, &actions[number], NULL);
      is_held[number] = false;
    }
    holding = false;
  } else {
    /* Unblocks the signals that the previous program held: preloaded.c waits for one call that includes all of them. */
    sigemptyset(&set);
    for (int number = 1; number <= SIGNALS; number++) sigaddset(&set, number);
  }
  pthread_sigmask(SIG_UNBLOCK, &set, &before);
  return fdb_bool_value(env, sigismember(&before, SIGTERM) == 1);
}

static struct sigaction of_libuv[SIGNALS + 1];
static int noted[SIGNALS + 1]; /* the number of watches */
static volatile sig_atomic_t from_self[SIGNALS + 1], from_other[SIGNALS + 1];

static void note_sender(int number, siginfo_t *info, void *context) {
  (void)context;
  if (info->si_code <= 0 && info->si_pid == getpid()) from_self[number] = 1;
  else from_other[number] = 1;
  of_libuv[number].sa_handler(number);
}

/* Call it after libuv has installed its handler, which it keeps as long as it has a handle for the signal. */
void fdb_note_senders(int number) {
  if (noted[number]++ > 0 || sigaction(number, NULL, &of_libuv[number]) != 0) return;
  from_self[number] = from_other[number] = 0;
  if (of_libuv[number].sa_flags & SA_SIGINFO || of_libuv[number].sa_handler == SIG_DFL) return;
  struct sigaction action = of_libuv[number];
  action.sa_flags |= SA_SIGINFO;
  action.sa_sigaction = note_sender;
  sigaction(number, &action, NULL);
}

/* Call it after libuv has stopped its handle. */
void fdb_ignore_senders(int number) {
  struct sigaction now;
  if (--noted[number] > 0 || sigaction(number, NULL, &now) != 0) return;
  /* The program has handles of its own, so libuv has kept the handler. */
  if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == note_sender) sigaction(number, &of_libuv[number], NULL);
}

bool fdb_is_own_signal(int number) {
  return from_self[number] && !from_other[number];
}

bool fdb_took_own_signal(int number) {
  bool own = fdb_is_own_signal(number);
  from_self[number] = from_other[number] = 0;
  return own;
}
