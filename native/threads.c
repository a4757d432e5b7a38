/* Starts the threads of the addon. None of them runs JavaScript. */
#include "fdb.h"

#include <pthread.h>

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
