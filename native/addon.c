/* Creates an environment's instance when the addon is loaded, and destroys it in an async cleanup hook. */
#include "fdb.h"

#include <stdlib.h>

static void finalize_instance(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  fdb_drop_instance(data);
}

/* Also runs when a worker is terminated. Closes polls first: a handle must leave epoll before its descriptor closes. */
static void end_of_environment(napi_async_cleanup_hook_handle handle, void *data) {
  fdb_instance *self = data;
  self->hook = handle;
  self->ending = true;
  self->closing++; /* so that no close callback removes the hook before this function does */
  fdb_close_polls(self);
  fdb_close_owned(self);
  for (int i = 0; i < MAKER_COUNT; i++) napi_delete_reference(self->env, self->makers[i]);
  napi_delete_reference(self->env, self->scratch);
  if (--self->closing == 0) {
    napi_remove_async_cleanup_hook(handle);
    fdb_drop_instance(self);
  }
}

napi_value fdb_failure(napi_env env, napi_callback_info info) {
  fdb_call call;
  char syscall[32];
  size_t length;
  int error;
  if (!fdb_enter(env, info, 2, &call) || !fdb_int(env, call.argv[0], "errno", 1, 4095, &error) ||
      !fdb_text(env, call.argv[1], "syscall", syscall, sizeof(syscall), &length))
    return NULL;
  return fdb_error(env, error, syscall);
}

napi_value fdb_open_count(napi_env env, napi_callback_info info) {
  fdb_call call;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  return fdb_int_value(env, call.self->open);
}

static bool make_scratch(fdb_instance *self) {
  napi_value buffer, array;
  void *data;
  if (napi_create_arraybuffer(self->env, FDB_SCRATCH * sizeof(int32_t), &data, &buffer) != napi_ok ||
      napi_create_typedarray(self->env, napi_int32_array, FDB_SCRATCH, buffer, 0, &array) != napi_ok ||
      napi_create_reference(self->env, array, 1, &self->scratch) != napi_ok)
    return false;
  self->scratch_fds = data;
  return true;
}

NAPI_MODULE_INIT() {
  fdb_instance *self = calloc(1, sizeof(*self));
  if (self == NULL) {
    napi_throw_error(env, "ENOMEM", "no memory for the addon's instance");
    return NULL;
  }
  self->env = env;
  self->references = 1;
  self->blocks = fdb_fastest_blocks();
  if (napi_set_instance_data(env, self, finalize_instance, NULL) != napi_ok) {
    free(self);
    return NULL;
  }
  if (!fdb_compile_makers(self) || !make_scratch(self)) return NULL;
  self->references = 2;
  if (napi_add_async_cleanup_hook(env, end_of_environment, self, &self->hook) != napi_ok) {
    self->references = 1;
    napi_throw_error(env, "ECANCELED", "the environment is ending");
    return NULL;
  }

#define METHOD(label, call) { label, NULL, call, NULL, NULL, NULL, napi_default_method, self }
  const napi_property_descriptor calls[] = {
    METHOD("bindSocket", fdb_bind_socket),
    METHOD("listen", fdb_listen),
    METHOD("connectTcp", fdb_connect_tcp),
    METHOD("connectUdp", fdb_connect_udp),
    METHOD("connectResult", fdb_connect_result),
    METHOD("connectUnix", fdb_connect_unix),
    METHOD("connectDatagram", fdb_connect_datagram),
    METHOD("accept", fdb_accept),
    METHOD("socketPair", fdb_socket_pair),
    METHOD("setOption", fdb_set_option),
    METHOD("sendMessage", fdb_send_message),
    METHOD("receiveMessage", fdb_receive_message),
    METHOD("stopReceiving", fdb_stop_receiving),
    METHOD("receiveDatagram", fdb_receive_datagram),
    METHOD("receiveFrom", fdb_receive_from),
    METHOD("arrival", fdb_arrival),
    METHOD("sendTo", fdb_send_to),
    METHOD("peerOfEnds", fdb_peer_of_ends),
    METHOD("send", fdb_send),
    METHOD("receive", fdb_receive),
    METHOD("peek", fdb_peek),
    METHOD("shutDown", fdb_shut_down),
    METHOD("resetAtClose", fdb_reset_at_close),
    METHOD("openPipe", fdb_open_pipe),
    METHOD("splice", fdb_splice),
    METHOD("readPipe", fdb_read_pipe),
    METHOD("createEpoll", fdb_create_epoll),
    METHOD("setEpoll", fdb_set_epoll),
    METHOD("askEpoll", fdb_ask_epoll),
    METHOD("failure", fdb_failure),
    METHOD("dup", fdb_dup),
    METHOD("makeRoom", fdb_make_room),
    METHOD("close", fdb_close),
    METHOD("closeMany", fdb_close_many),
    METHOD("closeAside", fdb_close_aside),
    METHOD("closingAside", fdb_closing_aside),
    METHOD("release", fdb_release),
    METHOD("adopt", fdb_adopt),
    METHOD("setCloexec", fdb_set_cloexec),
    METHOD("setBlocking", fdb_set_blocking),
    METHOD("inspect", fdb_inspect),
    METHOD("firstNotStream", fdb_first_not_stream),
    METHOD("peerCredentials", fdb_peer_credentials),
    METHOD("peerPidfd", fdb_peer_pidfd),
    METHOD("unreadBytes", fdb_unread_bytes),
    METHOD("ackedBytes", fdb_acked_bytes),
    METHOD("pidfdOpen", fdb_pidfd_open),
    METHOD("pidfdSignal", fdb_pidfd_signal),
    METHOD("pidfdTake", fdb_pidfd_take),
    METHOD("pidfdPid", fdb_pidfd_pid),
    METHOD("pidfdDead", fdb_pidfd_dead),
    METHOD("namesSocket", fdb_names_socket),
    METHOD("adoptOrphans", fdb_adopt_orphans),
    METHOD("endedChild", fdb_ended_child),
    METHOD("reapChild", fdb_reap_child),
    METHOD("openStarter", fdb_open_starter),
    METHOD("closeStarter", fdb_close_starter),
    METHOD("startsApart", fdb_starts_apart),
    METHOD("spawn", fdb_spawn),
    METHOD("spawnGuarded", fdb_spawn_guarded),
    METHOD("killAtEnd", fdb_kill_at_end),
    METHOD("execute", fdb_execute),
    METHOD("holdSignals", fdb_hold_signals),
    METHOD("releaseSignals", fdb_release_signals),
    METHOD("hangups", fdb_hangups),
    METHOD("memfd", fdb_memfd),
    METHOD("addSeals", fdb_add_seals),
    METHOD("addSealsAside", fdb_add_seals_aside),
    METHOD("getSeals", fdb_get_seals),
    METHOD("reopenReadOnly", fdb_reopen_read_only),
    METHOD("pread", fdb_pread),
    METHOD("pwrite", fdb_pwrite),
    METHOD("fileSize", fdb_file_size),
    METHOD("appendAlways", fdb_append_always),
    METHOD("freeStart", fdb_free_start),
    METHOD("addSums", fdb_add_sums),
    METHOD("findChanges", fdb_find_changes),
    METHOD("findPuts", fdb_find_puts),
    METHOD("scanRuns", fdb_scan_runs),
    METHOD("scanChanges", fdb_scan_changes),
    METHOD("createKeys", fdb_create_keys),
    METHOD("getKey", fdb_get_key),
    METHOD("setKey", fdb_set_key),
    METHOD("deleteKey", fdb_delete_key),
    METHOD("setKeys", fdb_set_keys),
    METHOD("findKeys", fdb_find_keys),
    METHOD("keysIn", fdb_keys_in),
    METHOD("amidTlsRecord", fdb_amid_tls_record),
    METHOD("sealKeyUpdate", fdb_seal_key_update),
    METHOD("threadCpuMs", fdb_thread_cpu_ms),
    METHOD("beginTls", fdb_begin_tls),
    METHOD("madeTls", fdb_made_tls),
    METHOD("writeTls", fdb_write_tls),
    METHOD("tryLock", fdb_try_lock),
    METHOD("openLockFile", fdb_open_lock_file),
    METHOD("lockRange", fdb_lock_range),
    METHOD("findLock", fdb_find_lock),
    METHOD("watchPaths", fdb_watch_paths),
    METHOD("createPoll", fdb_create_poll),
    METHOD("watchPauses", fdb_watch_pauses),
    METHOD("watchSignal", fdb_watch_signal),
    METHOD("openCount", fdb_open_count),
  };
  if (napi_define_properties(env, exports, sizeof(calls) / sizeof(calls[0]), calls) != napi_ok) return NULL;
  return exports;
}
