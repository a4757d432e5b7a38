/* Shared by all files of the addon: the instance of an environment, arguments, errors, the registry. */
#ifndef FDB_H
#define FDB_H

#include <node_api.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FDB_MAX_FDS 253 /* SCM_MAX_FD of the kernel */
#define FDB_SCRATCH 512

/* JavaScript functions that create the objects which native calls return, or copy descriptors (see makers.c). */
enum fdb_maker { COPY_FDS, MAKE_RECEIVED, MAKE_PLAIN, MAKE_INET, MAKE_INET6, MAKE_UNIX, MAKE_OTHER, MAKER_COUNT };

struct fdb_poll;

/* Adds `count` blocks of 64 bytes to a SHA-256 (see sums.c). */
typedef void (*fdb_blocks)(uint32_t state[8], const uint8_t *data, size_t count);

/* The addon's data for one Node environment: the main thread or a worker. */
typedef struct fdb_instance {
  napi_env env;
  napi_ref makers[MAKER_COUNT];
  napi_ref scratch; /* Int32Array for passing descriptors to and from the makers */
  int32_t *scratch_fds;
  uint64_t *bits; /* registry: bit n is set while this environment owns descriptor n */
  size_t words;
  uint32_t open;
  struct fdb_poll *polls; /* handles that are not closing yet */
  uint32_t closing;       /* uv handles whose close callback has not run yet */
  napi_async_cleanup_hook_handle hook;
  fdb_blocks blocks; /* the fastest implementation for this processor */
  uint64_t key_seed[2]; /* of the hashes of keys (see keys.c), 0: not made yet */
  bool ending;
  int references; /* instance data and cleanup hook have one each; the last one that goes frees the instance */
} fdb_instance;

/* makers.c */
bool fdb_compile_makers(fdb_instance *self);
napi_value fdb_make(fdb_instance *self, enum fdb_maker maker, size_t argc, const napi_value *argv);

/* registry.c */
bool fdb_reserve(fdb_instance *self, int fd); /* reserves memory for this number; false: out of memory */
bool fdb_own(fdb_instance *self, int fd);     /* on failure the descriptor is closed and an error thrown */
bool fdb_owns(const fdb_instance *self, int fd);
void fdb_disown(fdb_instance *self, int fd);
void fdb_close_owned(fdb_instance *self);
void fdb_drop_instance(fdb_instance *self); /* frees it with its last reference */
int fdb_close_fd(int fd); /* closes without a retry on EINTR; returns 0 or an errno */

/* A folder's entry, as getdents64() writes it. */
typedef struct {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
} fdb_entry;

/* descriptors.c: may be called between fork and exec. */
void fdb_close_at_exec(int from); /* sets CLOEXEC on descriptors from this number on */
void fdb_close_from(int from);    /* closes descriptors from this number on; Linux only */

/* threads.c */
/* Starts a detached thread with a small stack. The thread takes no signal of the program except `taken`; 0: none. */
bool fdb_start_thread(void *(*run)(void *), void *data, int taken);

/* starter.c */
/* As fork(), but without handlers of pthread_atfork(): that of libuv closes numbers which may belong to other descriptors in the child. */
pid_t fdb_plain_fork(void);
#define FDB_PASSED 16
typedef void (*fdb_child)(void *data, const int *fds);
/* Forks. The child calls `run`, which does not return, with all signals blocked, and with the numbers that `fds` have in the child: beside them it may have no other descriptor.
   If there is a starter, it forks, unless there are more than FDB_PASSED. Returns -1 with errno and the failed call. */
pid_t fdb_fork(fdb_child run, void *data, const int *fds, uint32_t count, const char **failed);

/* changes.c: the numbers that fdb_scan_runs() writes for each change. FDB_RUN is 0 if the caller must decode the change itself: it is invalid, has a rare
   field, or its key is too long, empty or not ASCII. Otherwise it is the number of puts of one section that begin with this change; for another kind 1. */
enum {
  FDB_RUN, FDB_OP, FDB_VERSION, FDB_SECTION, FDB_SECTION_END, FDB_KEY, FDB_KEY_END, FDB_VALUE, FDB_VALUE_END, FDB_PRINT,
  FDB_CHANGE_FIELDS
};

/* sums.c */
fdb_blocks fdb_fastest_blocks(void);

/* errors.c */
napi_value fdb_error(napi_env env, int error, const char *syscall);
napi_value fdb_throw(napi_env env, int error, const char *syscall); /* returns NULL */
napi_value fdb_throw_type(napi_env env, const char *format, ...) __attribute__((format(printf, 2, 3)));
napi_value fdb_throw_range(napi_env env, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fdb_error_name(int error, char *into, size_t size);

/* arguments.c: if an argument is wrong, these functions return false with an exception pending. */
#define FDB_MAX_ARGS 8
typedef struct fdb_call {
  napi_env env;
  fdb_instance *self;
  size_t argc;
  napi_value argv[FDB_MAX_ARGS];
} fdb_call;

typedef struct fdb_bytes {
  uint8_t *data;
  size_t length;
} fdb_bytes;

typedef struct fdb_words {
  uint32_t *data;
  size_t count;
} fdb_words;

bool fdb_enter(napi_env env, napi_callback_info info, size_t wanted, fdb_call *call);
bool fdb_integer(napi_env env, napi_value value, const char *name, double min, double max, double *into);
bool fdb_int(napi_env env, napi_value value, const char *name, int min, int max, int *into);
bool fdb_fd(napi_env env, napi_value value, const char *name, int *into);
bool fdb_bool(napi_env env, napi_value value, const char *name, bool *into);
bool fdb_is_nullish(napi_env env, napi_value value);
/* Copies the text and a final NUL. `*length` is the real length without NUL, even if the text was cut to size - 1
   bytes, so that the caller can throw ENAMETOOLONG. */
bool fdb_text(napi_env env, napi_value value, const char *name, char *into, size_t size, size_t *length);
/* Copies up to FDB_SCRATCH descriptors into `into`, starting with element `from`, and checks each. */
bool fdb_copy_fds(fdb_instance *self, napi_value array, uint32_t from, int *into, uint32_t *count);
bool fdb_array_length(napi_env env, napi_value value, const char *name, uint32_t *length);
/* Sets `into` to the memory of a Uint8Array of strings, each ended by NUL. No JavaScript may run while it is used. */
bool fdb_strings(napi_env env, napi_value value, const char *name, char **into, size_t *length);
/* Returns an array of pointers to the strings, ended by NULL, which the caller frees. Returns NULL if out of memory. */
char **fdb_split(char *text, size_t length, size_t *count);
/* Sets `into` to the memory of a Uint8Array or Uint32Array. No JavaScript may run while the pointer is used. */
bool fdb_view(napi_env env, napi_value value, const char *name, fdb_bytes *into);
bool fdb_words_of(napi_env env, napi_value value, const char *name, fdb_words *into);
/* Reads the arguments buffer (`index`), offset and length. Call it after all other arguments were read, because a getter
   of another argument may detach the buffer. */
bool fdb_span(const fdb_call *call, size_t index, fdb_bytes *into);

napi_value fdb_undefined(napi_env env);
napi_value fdb_null(napi_env env);
napi_value fdb_int_value(napi_env env, int64_t value);
napi_value fdb_bool_value(napi_env env, bool value);
napi_value fdb_owned_value(fdb_instance *self, int fd); /* takes ownership of a new descriptor and returns its number */
napi_value fdb_owned_pair(fdb_instance *self, const int pair[2]); /* the same for two, as an array; on failure both are closed and an error thrown */

/* Reports whether the kernel lacks a system call or option, or seccomp refuses it. */
static inline bool fdb_is_missing(int error) {
  return error == ENOSYS || error == ENOPROTOOPT || error == EPERM;
}

/* The functions that JavaScript calls, by file. */
#define FDB_CALL(name) napi_value name(napi_env env, napi_callback_info info)
FDB_CALL(fdb_bind_socket);
FDB_CALL(fdb_listen);
FDB_CALL(fdb_connect_tcp);
FDB_CALL(fdb_connect_udp);
FDB_CALL(fdb_connect_result);
FDB_CALL(fdb_connect_unix);
FDB_CALL(fdb_connect_datagram);
FDB_CALL(fdb_accept);
FDB_CALL(fdb_socket_pair);
FDB_CALL(fdb_set_option);
FDB_CALL(fdb_send_message);
FDB_CALL(fdb_receive_message);
FDB_CALL(fdb_stop_receiving);
FDB_CALL(fdb_receive_datagram);
FDB_CALL(fdb_receive_from);
FDB_CALL(fdb_arrival);
FDB_CALL(fdb_send_to);
FDB_CALL(fdb_peer_of_ends);
FDB_CALL(fdb_send);
FDB_CALL(fdb_receive);
FDB_CALL(fdb_peek);
FDB_CALL(fdb_shut_down);
FDB_CALL(fdb_reset_at_close);
FDB_CALL(fdb_open_pipe);
FDB_CALL(fdb_splice);
FDB_CALL(fdb_read_pipe);
FDB_CALL(fdb_create_epoll);
FDB_CALL(fdb_set_epoll);
FDB_CALL(fdb_ask_epoll);
FDB_CALL(fdb_failure);
FDB_CALL(fdb_dup);
FDB_CALL(fdb_make_room);
FDB_CALL(fdb_close);
FDB_CALL(fdb_close_many);
FDB_CALL(fdb_close_aside);
FDB_CALL(fdb_closing_aside);
FDB_CALL(fdb_release);
FDB_CALL(fdb_adopt);
FDB_CALL(fdb_set_cloexec);
FDB_CALL(fdb_set_blocking);
FDB_CALL(fdb_first_not_stream);
FDB_CALL(fdb_inspect);
FDB_CALL(fdb_peer_credentials);
FDB_CALL(fdb_peer_pidfd);
FDB_CALL(fdb_unread_bytes);
FDB_CALL(fdb_acked_bytes);
FDB_CALL(fdb_pidfd_open);
FDB_CALL(fdb_pidfd_signal);
FDB_CALL(fdb_pidfd_take);
FDB_CALL(fdb_pidfd_pid);
FDB_CALL(fdb_hangups);
FDB_CALL(fdb_pidfd_dead);
FDB_CALL(fdb_names_socket);
FDB_CALL(fdb_adopt_orphans);
FDB_CALL(fdb_ended_child);
FDB_CALL(fdb_reap_child);
FDB_CALL(fdb_open_starter);
FDB_CALL(fdb_close_starter);
FDB_CALL(fdb_starts_apart);
FDB_CALL(fdb_spawn);
FDB_CALL(fdb_spawn_guarded);
FDB_CALL(fdb_kill_at_end);
FDB_CALL(fdb_execute);
/* Gets the signals that holdSignals has blocked. */
void fdb_held_signals(sigset_t *set);
FDB_CALL(fdb_hold_signals);
FDB_CALL(fdb_release_signals);
FDB_CALL(fdb_memfd);
FDB_CALL(fdb_add_seals);
FDB_CALL(fdb_add_seals_aside);
FDB_CALL(fdb_get_seals);
FDB_CALL(fdb_reopen_read_only);
FDB_CALL(fdb_pread);
FDB_CALL(fdb_pwrite);
FDB_CALL(fdb_file_size);
FDB_CALL(fdb_append_always);
FDB_CALL(fdb_free_start);
FDB_CALL(fdb_add_sums);
FDB_CALL(fdb_find_changes);
FDB_CALL(fdb_find_puts);
FDB_CALL(fdb_scan_runs);
FDB_CALL(fdb_scan_changes);
FDB_CALL(fdb_create_keys);
FDB_CALL(fdb_get_key);
FDB_CALL(fdb_set_key);
FDB_CALL(fdb_delete_key);
FDB_CALL(fdb_set_keys);
FDB_CALL(fdb_find_keys);
FDB_CALL(fdb_keys_in);
FDB_CALL(fdb_begin_tls);
FDB_CALL(fdb_made_tls);
FDB_CALL(fdb_write_tls);
FDB_CALL(fdb_amid_tls_record);
FDB_CALL(fdb_seal_key_update);
FDB_CALL(fdb_thread_cpu_ms);
FDB_CALL(fdb_try_lock);
FDB_CALL(fdb_open_lock_file);
FDB_CALL(fdb_lock_range);
FDB_CALL(fdb_find_lock);
FDB_CALL(fdb_watch_paths);
FDB_CALL(fdb_create_poll);
FDB_CALL(fdb_watch_pauses);
FDB_CALL(fdb_watch_signal);
FDB_CALL(fdb_open_count);

/* signals.c: records whether this process itself sends the signal, which libuv handles and does not tell. */
void fdb_note_senders(int number);
void fdb_ignore_senders(int number);
bool fdb_is_own_signal(int number);   /* true: only this process has sent the signal since the last call of the next function */
bool fdb_took_own_signal(int number); /* the same, for a signal that is handled now */

/* poll.c: closes all handles at the end of the environment. */
void fdb_close_polls(fdb_instance *self);

#endif
