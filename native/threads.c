/* Starts the threads of the addon, none of which runs JavaScript, and measures the one that does. */
#include "fdb.h"

#include <pthread.h>
#include <time.h>

#define STACK_BYTES (256 * 1024)

bool fdb_start_thread(void *(*run)(void *), void *data, int taken) {
  sigset_t blocked, before;
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset(&blocked);
  if (taken != 0) sigdelset(&blocked, taken);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  bool started = pthread_create(&thread, &attributes, run, data) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return started;
}

napi_value fdb_thread_cpu_ms(napi_env env, napi_callback_info info) {
  struct timespec used;
  napi_value result = NULL;
  (void)info;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) != 0) return fdb_throw(env, errno, "clock_gettime");
  napi_create_double(env, (double)used.tv_sec * 1e3 + (double)used.tv_nsec / 1e6, &result);
  return result;
}
