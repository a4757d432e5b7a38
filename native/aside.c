/*
 * Closes descriptors in other threads, because the close may take as long as their sender likes: a socket with SO_LINGER and unsent data
 * waits, and so does a file of FUSE (flush). A lane has the descriptors of one sender, which are closed in order and one at a time, so that
 * a close that never ends delays only those of the same sender. The threads belong to the process: they outlive the environment that has
 * started them, and the addon is never unloaded (-z nodelete).
 */
#include "fdb.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
#endif

#define MOST_THREADS 16
#define FDB_OWN_LANES 9 /* lanes that are no uid: from -1 down */

typedef struct lane {
  struct lane *next;
  int64_t id;
  int *fds; /* the first one is being closed if `busy` */
  size_t count, size;
  bool busy;
} lane;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static lane *lanes; /* those with descriptors; a lane moves to the end after each close */
static int threads, idle;

static lane **find(int64_t id) {
  lane **at = &lanes;
  while (*at != NULL && (*at)->id != id) at = &(*at)->next;
  return at;
}

/* A signal ends the wait of SO_LINGER; the kernel then sends the remaining data in the background. So each closing thread has a timer that
   signals it. SIGURG is ignored by default, so that no program misses it; its handler does nothing. */
#define CUT_SIGNAL SIGURG
#define CUT_NS 200000
#define CUT_AGAIN_NS 1000000

#ifdef __linux__
static void ignore(int signal) {
  (void)signal;
}

/* Returns -1 if the program handles the signal itself, or the kernel has no such timers: then a lingering close takes its time. */
static int make_timer(void) {
  struct sigaction action;
  if (sigaction(CUT_SIGNAL, NULL, &action) != 0) return -1;
  if (action.sa_handler != ignore) {
    if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN) return -1;
    memset(&action, 0, sizeof(action));
    action.sa_handler = ignore;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(CUT_SIGNAL, &action, NULL) != 0) return -1;
  }
  struct sigevent event;
  memset(&event, 0, sizeof(event));
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = CUT_SIGNAL;
  event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
  int timer; /* the kernel's timer_t; timer_create() of old C libraries is in another library */
  return syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0 ? timer : -1;
}

static void set_timer(int timer, bool on) {
  if (timer < 0) return;
  struct itimerspec spec;
  memset(&spec, 0, sizeof(spec));
  if (on) {
    spec.it_value.tv_nsec = CUT_NS;
    spec.it_interval.tv_nsec = CUT_AGAIN_NS;
  }
  syscall(SYS_timer_settime, timer, 0, &spec, NULL);
}
#else
static int make_timer(void) {
  return -1;
}
static void set_timer(int timer, bool on) {
  (void)timer;
  (void)on;
}
#endif

/* Call it with the mutex. */
static lane *next_lane(void) {
  lane *each = lanes;
  while (each != NULL && each->busy) each = each->next;
  return each;
}

/* Removes the closed descriptor, and moves the lane to the end, or frees it if it is empty. Call it with the mutex. */
static void closed(lane *done) {
  lane **at = find(done->id);
  *at = done->next;
  memmove(done->fds, done->fds + 1, --done->count * sizeof(int));
  done->busy = false;
  if (done->count == 0) {
    free(done->fds);
    free(done);
    return;
  }
  done->next = NULL;
  while (*at != NULL) at = &(*at)->next;
  *at = done;
}

static void *close_lanes(void *unused) {
  (void)unused;
#ifdef __linux__
  prctl(PR_SET_NAME, "fdb-close");
#endif
  int timer = make_timer();
  pthread_mutex_lock(&mutex);
  for (;;) {
    lane *mine = next_lane();
    if (mine == NULL) {
      idle++;
      pthread_cond_wait(&wake, &mutex);
      idle--;
      continue;
    }
    mine->busy = true;
    int fd = mine->fds[0];
    pthread_mutex_unlock(&mutex);
    set_timer(timer, true);
    fdb_close_fd(fd);
    set_timer(timer, false);
    pthread_mutex_lock(&mutex);
    closed(mine);
  }
  return NULL;
}

/* Call it with the mutex. */
static bool add(int64_t id, int fd) {
  lane **at = find(id);
  lane *to = *at;
  if (to == NULL) {
    to = calloc(1, sizeof(*to));
    if (to == NULL) return false;
    to->id = id;
  }
  if (to->count == to->size) {
    size_t size = to->size == 0 ? 16 : to->size * 2;
    int *fds = realloc(to->fds, size * sizeof(int));
    if (fds == NULL) {
      if (*at == NULL) free(to);
      return false;
    }
    to->fds = fds;
    to->size = size;
  }
  to->fds[to->count++] = fd;
  *at = to;
  return true;
}

/* Starts a thread if fewer are idle than lanes wait; if that fails, the lanes wait for the busy threads. Returns false if there is no thread. Call
   it with the mutex. */
static bool attend(void) {
  int waiting = 0;
  for (lane *each = lanes; each != NULL; each = each->next)
    if (!each->busy) waiting++;
  if (waiting >= idle && threads < MOST_THREADS && fdb_start_thread(close_lanes, NULL, CUT_SIGNAL)) threads++;
  return threads > 0;
}

static bool lane_of(napi_env env, napi_value value, int64_t *id) {
  double number;
  if (!fdb_integer(env, value, "lane", -FDB_OWN_LANES, 4294967295.0, &number)) return false;
  *id = (int64_t)number;
  return true;
}

/* Arguments (lane, fds). Closes at once if there is no memory, or no thread at all. */
napi_value fdb_close_aside(napi_env env, napi_callback_info info) {
  fdb_call call;
  int64_t id;
  uint32_t length, count;
  int fds[FDB_SCRATCH];
  if (!fdb_enter(env, info, 2, &call) || !lane_of(env, call.argv[0], &id) ||
      !fdb_array_length(env, call.argv[1], "fds", &length))
    return NULL;
  for (uint32_t from = 0; from < length; from += FDB_SCRATCH) {
    if (!fdb_copy_fds(call.self, call.argv[1], from, fds, &count)) return NULL;
    for (uint32_t i = 0; i < count; i++) {
      fdb_disown(call.self, fds[i]);
      pthread_mutex_lock(&mutex);
      bool added = attend() && add(id, fds[i]);
      pthread_cond_signal(&wake);
      pthread_mutex_unlock(&mutex);
      if (!added) fdb_close_fd(fds[i]);
    }
  }
  return fdb_undefined(env);
}

/* Returns how many descriptors of a lane are not closed yet. */
napi_value fdb_closing_aside(napi_env env, napi_callback_info info) {
  fdb_call call;
  int64_t id;
  if (!fdb_enter(env, info, 1, &call) || !lane_of(env, call.argv[0], &id)) return NULL;
  pthread_mutex_lock(&mutex);
  const lane *found = *find(id);
  int64_t count = found == NULL ? 0 : (int64_t)found->count;
  pthread_mutex_unlock(&mutex);
  return fdb_int_value(env, count);
}
