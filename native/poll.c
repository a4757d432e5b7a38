/*
 * Watches a descriptor on the event loop, a signal, or the pauses of the loop itself. Uses uv_poll with napi_make_callback: an exception in the callback becomes an
 * uncaught exception, and the async context is kept, on every version of Node (a threadsafe function does neither).
 *
 * The struct is freed after both libuv's close callback and the JavaScript object's finalizer. A strong reference keeps
 * the object until the poll is closed, so that a started poll is not collected: its creator must close it.
 */
#include "fdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define ALL_EVENTS (UV_READABLE | UV_WRITABLE | UV_DISCONNECT)

typedef struct fdb_poll {
  union { /* must be first: a pointer to it is cast to fdb_poll */
    uv_handle_t any;
    uv_poll_t poll;
    uv_check_t check;   /* of a watch of pauses */
    uv_signal_t signal; /* of a watch of a signal */
  } handle;
  bool pauses;
  int signal; /* the number; 0: watches no signal */
  uint64_t longest, turned; /* nanoseconds: the longest turn that is no pause, and the end of the last turn */
  fdb_instance *self;
  struct fdb_poll *next, **link; /* in self->polls */
  napi_async_context context;
  napi_ref object, callback;
  int fd, watched;
  int between; /* see watch_between(); -1: libuv watches `fd` itself */
  bool calling, closing, closed, collected, mapped;
} fdb_poll;

static const napi_type_tag poll_tag = { 0x6664627270306c6cULL, 0x9d2f4c1be8a75310ULL };

static void free_if_done(fdb_poll *poll) {
  if (!poll->closed || !poll->collected) return;
  if (poll->mapped) munmap(poll, sizeof(*poll));
  else free(poll);
}

static void on_closed(uv_handle_t *handle) {
  fdb_poll *poll = (fdb_poll *)handle;
  fdb_instance *self = poll->self;
  poll->closed = true;
  poll->self = NULL;
  if (poll->between >= 0) close(poll->between);
  free_if_done(poll);
  if (--self->closing == 0 && self->ending) {
    napi_remove_async_cleanup_hook(self->hook);
    fdb_drop_instance(self);
  }
}

/* Drops the references to JavaScript. Must not run inside the callback, which still uses the context. */
static void let_go(napi_env env, fdb_poll *poll) {
  if (poll->context != NULL) napi_async_destroy(env, poll->context);
  if (poll->callback != NULL) napi_delete_reference(env, poll->callback);
  if (poll->object != NULL) napi_delete_reference(env, poll->object);
  poll->context = NULL;
  poll->callback = poll->object = NULL;
}

static void close_poll(fdb_poll *poll) {
  if (poll->closing) return;
  fdb_instance *self = poll->self;
  poll->closing = true;
  *poll->link = poll->next;
  if (poll->next != NULL) poll->next->link = poll->link;
  self->closing++;
  if (poll->signal != 0) {
    uv_signal_stop(&poll->handle.signal);
    fdb_ignore_senders(poll->signal);
  }
  uv_close(&poll->handle.any, on_closed);
  if (!poll->calling) let_go(self->env, poll);
}

void fdb_close_polls(fdb_instance *self) {
  while (self->polls != NULL) close_poll(self->polls);
}

static void finalize_poll(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  fdb_poll *poll = data;
  poll->collected = true;
  free_if_done(poll);
}

static void on_events(uv_poll_t *handle, int status, int events);

/*
 * libuv sets O_NONBLOCK on what it watches, for all processes that share the file. A shared socket that blocks may be the listener of a program that accepts
 * in blocking mode: libuv watches an epoll instance that has the socket. Returns 0 or an error number.
 */
static int watch_between(fdb_poll *poll) {
#ifdef __linux__
  struct stat about;
  int flags = fcntl(poll->fd, F_GETFL);
  if (flags < 0 || (flags & O_NONBLOCK) || fstat(poll->fd, &about) < 0 || !S_ISSOCK(about.st_mode)) return 0;
  struct epoll_event none = { .events = 0 };
  poll->between = epoll_create1(EPOLL_CLOEXEC);
  if (poll->between >= 0 && epoll_ctl(poll->between, EPOLL_CTL_ADD, poll->fd, &none) == 0) return 0;
  int error = errno;
  if (poll->between >= 0) close(poll->between);
  poll->between = -1;
  return error;
#else
  (void)poll;
  return 0;
#endif
}

static int start_watching(fdb_poll *poll, int events) {
#ifdef __linux__
  if (poll->between >= 0) {
    struct epoll_event wanted = { .events = (events & UV_READABLE ? EPOLLIN : 0u) | (events & UV_WRITABLE ? EPOLLOUT : 0u) |
                                            (events & UV_DISCONNECT ? EPOLLRDHUP : 0u) };
    if (epoll_ctl(poll->between, EPOLL_CTL_MOD, poll->fd, &wanted) < 0) return -errno;
    events = events == 0 ? 0 : UV_READABLE;
  }
#endif
  return uv_poll_start(&poll->handle.poll, events, on_events);
}

#ifdef __linux__
/* Returns the events of the socket, as libuv reports them; 0 if there are none any more. */
static int events_between(const fdb_poll *poll) {
  struct epoll_event seen;
  if (epoll_wait(poll->between, &seen, 1, 0) <= 0) return 0;
  if (seen.events & (EPOLLERR | EPOLLHUP)) return poll->watched;
  return (seen.events & EPOLLIN ? UV_READABLE : 0) | (seen.events & EPOLLOUT ? UV_WRITABLE : 0) |
         (seen.events & EPOLLRDHUP ? UV_DISCONNECT : 0);
}
#endif

/* libuv reports any socket error as EBADF and stops. Reports "ready" instead and continues watching, so that the reader
   gets the remaining data and then the real error. Only a closed descriptor really is EBADF. */
static int error_as_readiness(fdb_poll *poll, int *status) {
  if (*status != UV_EBADF || fcntl(poll->fd, F_GETFD) < 0) return 0;
  int result = start_watching(poll, poll->watched);
  *status = result;
  return result < 0 ? 0 : poll->watched;
}

/* Calls the callback with `number`, and with an error unless it is 0. */
static void call_back(fdb_poll *poll, int64_t number, int error) {
  napi_env env = poll->self->env;
  napi_handle_scope scope;
  napi_value object, callback, argv[2];
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  argv[0] = fdb_int_value(env, number);
  argv[1] = error != 0 ? fdb_error(env, error, "poll") : fdb_null(env);
  if (argv[1] != NULL && napi_get_reference_value(env, poll->object, &object) == napi_ok &&
      napi_get_reference_value(env, poll->callback, &callback) == napi_ok) {
    /* The callback may close this poll; the struct is freed in a later phase of the loop. */
    poll->calling = true;
    napi_status called = napi_make_callback(env, poll->context, object, callback, 2, argv, NULL);
    poll->calling = false;
    if (poll->closing) let_go(env, poll);
    if (called == napi_pending_exception) {
      napi_value thrown;
      if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
    }
  }
  napi_close_handle_scope(env, scope);
}

static void on_events(uv_poll_t *handle, int status, int events) {
  fdb_poll *poll = (fdb_poll *)handle;
  if (poll->closing) return;
#ifdef __linux__
  if (status == 0 && poll->between >= 0 && (events = events_between(poll)) == 0) return;
#endif
  if (status < 0) events = error_as_readiness(poll, &status);
  call_back(poll, events, status < 0 ? -status : 0);
}

/* Runs in each turn of the loop after the descriptors and before the timers. */
static void on_turn(uv_check_t *handle) {
  fdb_poll *poll = (fdb_poll *)handle;
  if (poll->closing) return;
  uint64_t turn = uv_hrtime() - poll->turned;
  if (turn > poll->longest) call_back(poll, (int64_t)(turn / 1000000), 0);
  poll->turned = uv_hrtime();
}

/* Calls the callback with 1 if only this process has sent the signal, otherwise with 0. */
static void on_signal(uv_signal_t *handle, int number) {
  fdb_poll *poll = (fdb_poll *)handle;
  if (!poll->closing) call_back(poll, fdb_took_own_signal(number), 0);
}

/* Returns the poll of `this`, or NULL with a pending TypeError. */
static fdb_poll *this_poll(napi_env env, napi_callback_info info, size_t *argc, napi_value *argv) {
  napi_value object;
  void *data;
  bool ours = false;
  if (napi_get_cb_info(env, info, argc, argv, &object, NULL) != napi_ok) return NULL;
  if (napi_check_object_type_tag(env, object, &poll_tag, &ours) != napi_ok || !ours ||
      napi_unwrap(env, object, &data) != napi_ok) {
    fdb_throw_type(env, "this is not a poll");
    return NULL;
  }
  return data;
}

static napi_value poll_start(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  int events;
  fdb_poll *poll = this_poll(env, info, &argc, argv);
  if (poll == NULL) return NULL;
  if (argc < 1) return fdb_throw_type(env, "events must be a number");
  if (!fdb_int(env, argv[0], "events", 0, ALL_EVENTS, &events)) return NULL;
  if (poll->closing || poll->pauses || poll->signal != 0) return fdb_throw(env, EBADF, "poll");
  poll->watched = events;
  int result = start_watching(poll, events);
  return result < 0 ? fdb_throw(env, -result, "poll") : fdb_undefined(env);
}

static napi_value poll_stop(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  fdb_poll *poll = this_poll(env, info, &argc, NULL);
  if (poll == NULL) return NULL;
  if (!poll->closing && !poll->pauses && poll->signal == 0) uv_poll_stop(&poll->handle.poll);
  return fdb_undefined(env);
}

static napi_value poll_close(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  fdb_poll *poll = this_poll(env, info, &argc, NULL);
  if (poll == NULL) return NULL;
  close_poll(poll);
  return fdb_undefined(env);
}

static napi_value poll_ref(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  fdb_poll *poll = this_poll(env, info, &argc, NULL);
  if (poll == NULL) return NULL;
  if (!poll->closing) uv_ref(&poll->handle.any);
  return fdb_undefined(env);
}

static napi_value poll_unref(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  fdb_poll *poll = this_poll(env, info, &argc, NULL);
  if (poll == NULL) return NULL;
  if (!poll->closing) uv_unref(&poll->handle.any);
  return fdb_undefined(env);
}

/*
 * A signal is counted in libuv's signal handler, and again when the loop has called the handle. libuv drops a signal between the two if its handle is
 * stopped. After close() the first count is final: libuv removes the handle under the lock that its signal handler takes. The second count does not have
 * the signal whose callback is running.
 */
static napi_value poll_undelivered(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  fdb_poll *poll = this_poll(env, info, &argc, NULL);
  if (poll == NULL) return NULL;
  if (poll->signal == 0) return fdb_throw(env, EBADF, "poll");
  const uv_signal_t *signal = &poll->handle.signal;
  int64_t count = (int64_t)(signal->caught_signals - signal->dispatched_signals) - (poll->calling ? 1 : 0);
  return fdb_int_value(env, count <= 0 ? 0 : fdb_is_own_signal(poll->signal) ? 1 : 2);
}

/* Creates the JavaScript object of a poll. On failure the caller must close the handle. */
static bool make_object(napi_env env, fdb_poll *poll, napi_value callback, napi_value *object) {
  static const napi_property_descriptor methods[] = {
    { "start", NULL, poll_start, NULL, NULL, NULL, napi_default_method, NULL },
    { "stop", NULL, poll_stop, NULL, NULL, NULL, napi_default_method, NULL },
    { "close", NULL, poll_close, NULL, NULL, NULL, napi_default_method, NULL },
    { "ref", NULL, poll_ref, NULL, NULL, NULL, napi_default_method, NULL },
    { "unref", NULL, poll_unref, NULL, NULL, NULL, napi_default_method, NULL },
    { "undelivered", NULL, poll_undelivered, NULL, NULL, NULL, napi_default_method, NULL },
  };
  napi_value name;
  /* napi_wrap comes last, so that after a failure no JavaScript object refers to the struct. */
  return !(napi_create_object(env, object) != napi_ok ||
           napi_define_properties(env, *object, sizeof(methods) / sizeof(methods[0]), methods) != napi_ok ||
           napi_type_tag_object(env, *object, &poll_tag) != napi_ok ||
           napi_create_string_latin1(env, "fd-broker:poll", NAPI_AUTO_LENGTH, &name) != napi_ok ||
           napi_create_reference(env, callback, 1, &poll->callback) != napi_ok ||
           napi_create_reference(env, *object, 1, &poll->object) != napi_ok ||
           napi_async_init(env, *object, name, &poll->context) != napi_ok ||
           napi_wrap(env, *object, poll, finalize_poll, NULL, NULL) != napi_ok);
}

/* Closes a poll whose object was not made: no finalizer will run. */
static void on_abandoned(uv_handle_t *handle) {
  fdb_poll *poll = (fdb_poll *)handle;
  poll->collected = true;
  on_closed(handle);
}

/* Completes a poll whose handle is initialized; returns its JavaScript object, or NULL while the environment is ending. */
static napi_value add_poll(fdb_instance *self, fdb_poll *poll, napi_value callback) {
  napi_value object;
  poll->self = self;
  if (!make_object(self->env, poll, callback, &object)) {
    let_go(self->env, poll); /* make_object() fails only while the environment is ending */
    if (poll->signal != 0) fdb_ignore_senders(poll->signal);
    self->closing++;
    uv_close(&poll->handle.any, on_abandoned);
    return NULL;
  }
  poll->next = self->polls;
  poll->link = &self->polls;
  if (poll->next != NULL) poll->next->link = &poll->next;
  self->polls = poll;
  return object;
}

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
/* The kernel's usual vm.mmap_min_addr, and the lowest address of a program. */
#define LOWEST 0x10000
#define LOWEST_OF_PROGRAM 0x400000

/*
 * libuv calls the handles of a signal in the order of their addresses. Maps the watch below all memory of the program, so
 * that its callback runs before those of Node: it then sees the listeners that the program has for this signal, before
 * `process.once()` removes one.
 */
static fdb_poll *lowest_memory(void) {
#ifdef __linux__
  for (uintptr_t at = LOWEST; at < LOWEST_OF_PROGRAM; at += LOWEST) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *memory = mmap((void *)at, sizeof(fdb_poll), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) continue;
    if (memory == (void *)at) {
      fdb_poll *poll = memory;
      poll->mapped = true;
      return poll;
    }
    munmap(memory, sizeof(fdb_poll));
    break;
  }
#endif
  return calloc(1, sizeof(fdb_poll));
}

/* Returns a new poll, or NULL with a pending exception. */
static fdb_poll *new_poll(const fdb_call *call, uv_loop_t **loop, fdb_poll *(*allocate)(void)) {
  napi_valuetype type;
  if (napi_typeof(call->env, call->argv[1], &type) != napi_ok || type != napi_function) {
    fdb_throw_type(call->env, "callback must be a function");
    return NULL;
  }
  if (call->self->ending || napi_get_uv_event_loop(call->env, loop) != napi_ok) {
    fdb_throw(call->env, ECANCELED, "poll");
    return NULL;
  }
  fdb_poll *poll = allocate();
  if (poll == NULL) fdb_throw(call->env, ENOMEM, "calloc");
  else poll->between = -1;
  return poll;
}

static fdb_poll *any_memory(void) {
  return calloc(1, sizeof(fdb_poll));
}

napi_value fdb_create_poll(napi_env env, napi_callback_info info) {
  fdb_call call;
  int fd;
  bool shared = false;
  uv_loop_t *loop;
  if (!fdb_enter(env, info, 2, &call) || !fdb_fd(env, call.argv[0], "fd", &fd)) return NULL;
  if (call.argc > 2 && !fdb_bool(env, call.argv[2], "shared", &shared)) return NULL;
  fdb_poll *poll = new_poll(&call, &loop, any_memory);
  if (poll == NULL) return NULL;
  poll->fd = fd;
  int result = shared ? -watch_between(poll) : 0;
  if (result == 0) result = uv_poll_init(loop, &poll->handle.poll, poll->between >= 0 ? poll->between : fd);
  if (result < 0) {
    if (poll->between >= 0) close(poll->between);
    free(poll);
    return fdb_throw(env, -result, "poll");
  }
  return add_poll(call.self, poll, call.argv[1]);
}

/* Does not keep the process alive. */
napi_value fdb_watch_pauses(napi_env env, napi_callback_info info) {
  fdb_call call;
  int ms;
  uv_loop_t *loop;
  if (!fdb_enter(env, info, 2, &call) || !fdb_int(env, call.argv[0], "ms", 1, 1000000, &ms)) return NULL;
  fdb_poll *poll = new_poll(&call, &loop, any_memory);
  if (poll == NULL) return NULL;
  poll->pauses = true;
  poll->longest = (uint64_t)ms * 1000000;
  poll->turned = uv_hrtime();
  uv_check_init(loop, &poll->handle.check);
  uv_check_start(&poll->handle.check, on_turn);
  uv_unref(&poll->handle.any);
  return add_poll(call.self, poll, call.argv[1]);
}

/* Does not keep the process alive. */
napi_value fdb_watch_signal(napi_env env, napi_callback_info info) {
  fdb_call call;
  int number;
  uv_loop_t *loop;
  if (!fdb_enter(env, info, 2, &call) || !fdb_int(env, call.argv[0], "signal", 1, 31, &number)) return NULL;
  fdb_poll *poll = new_poll(&call, &loop, lowest_memory);
  if (poll == NULL) return NULL;
  int result = uv_signal_init(loop, &poll->handle.signal);
  if (result < 0) {
    poll->closed = poll->collected = true;
    free_if_done(poll);
    return fdb_throw(env, -result, "signal");
  }
  result = uv_signal_start(&poll->handle.signal, on_signal, number);
  if (result < 0) {
    poll->self = call.self;
    call.self->closing++;
    uv_close(&poll->handle.any, on_abandoned);
    return fdb_throw(env, -result, "signal");
  }
  poll->signal = number;
  fdb_note_senders(number);
  uv_unref(&poll->handle.any);
  return add_poll(call.self, poll, call.argv[1]);
}
