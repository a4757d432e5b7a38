/*
 * Sends bytes over a TLS connection of Node, between two writes of Node's, and tells whether a record has arrived in part. Node's own interface cannot send for a
 * connection that native code uses (an HTTP/2 session): when a write of JavaScript ends, the session aborts the process.
 *
 * OpenSSL reports each connection that it makes to functions that were registered for extra data of connections, which is documented (SSL_get_ex_new_index).
 * Node exports OpenSSL to addons. Where it does not, or is built with another library (BoringSSL), no connection is found.
 */
#include "fdb.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC UINT64_C(0x5d1c0b7e93a4f628)
#define CONNECTIONS 0 /* CRYPTO_EX_INDEX_SSL */
#define OLDEST 3      /* major versions of OpenSSL */
#define NEWEST 3
#define NOTHING 1 /* SSL_NOTHING, SSL_READING: no write is under way */
#define READING 3
#define MOST_FINISHED 64

/* Functions of OpenSSL. A weak symbol is NULL if the process has none of this name. */
typedef void ex_function(void *parent, void *value, void *data, int index, long number, void *pointer);
typedef int ex_copy(void *to, const void *from, void **value, int index, long number, void *pointer);
#define WEAK __attribute__((weak))
WEAK extern unsigned int OPENSSL_version_major(void);
WEAK extern int CRYPTO_get_ex_new_index(int kind, long number, void *pointer, ex_function *made, ex_copy *copied, ex_function *freed);
WEAK extern int SSL_set_ex_data(void *ssl, int index, void *value);
WEAK extern int SSL_is_init_finished(const void *ssl);
WEAK extern int SSL_get_shutdown(const void *ssl);
WEAK extern int SSL_want(const void *ssl);
WEAK extern size_t SSL_get_finished(const void *ssl, void *into, size_t size);
WEAK extern int SSL_write(void *ssl, const void *bytes, int length);
WEAK extern void ERR_clear_error(void);
WEAK extern const char *SSL_rstate_string(const void *ssl);
WEAK extern int SSL_has_pending(const void *ssl);
WEAK extern void *SSL_get_rbio(const void *ssl);
WEAK extern size_t BIO_ctrl_pending(void *bio);

/* A connection that JavaScript knows. OpenSSL's connection and the JavaScript object have one reference each; both belong to one thread. */
typedef struct tls_connection {
  uint64_t magic;
  fdb_instance *self;
  void *ssl; /* NULL: OpenSSL has freed it */
  int references;
} tls_connection;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ex_index = -1;
/* The connections that this thread has made since fdb_begin_tls(): the newest one, and their number. */
static _Thread_local void *newest;
static _Thread_local unsigned made;

static void drop(tls_connection *connection) {
  if (--connection->references > 0) return;
  connection->magic = 0;
  free(connection);
}

static void on_made(void *parent, void *value, void *data, int index, long number, void *pointer) {
  (void)value, (void)data, (void)index, (void)number, (void)pointer;
  newest = parent;
  made++;
}

static void on_freed(void *parent, void *value, void *data, int index, long number, void *pointer) {
  (void)data, (void)index, (void)number, (void)pointer;
  if (newest == parent) newest = NULL;
  tls_connection *connection = value;
  if (connection == NULL) return;
  connection->ssl = NULL;
  drop(connection);
}

static void follow(void) {
  bool known = OPENSSL_version_major != NULL && CRYPTO_get_ex_new_index != NULL && SSL_set_ex_data != NULL &&
               SSL_is_init_finished != NULL && SSL_get_shutdown != NULL && SSL_want != NULL && SSL_get_finished != NULL &&
               SSL_write != NULL && ERR_clear_error != NULL && SSL_rstate_string != NULL && SSL_has_pending != NULL &&
               SSL_get_rbio != NULL && BIO_ctrl_pending != NULL;
  if (!known || OPENSSL_version_major() < OLDEST || OPENSSL_version_major() > NEWEST) return;
  ex_index = CRYPTO_get_ex_new_index(CONNECTIONS, 0, NULL, on_made, NULL, on_freed);
}

static void finalize(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  drop(data);
}

napi_value fdb_begin_tls(napi_env env, napi_callback_info info) {
  (void)info;
  pthread_once(&once, follow);
  newest = NULL;
  made = 0;
  return fdb_bool_value(env, ex_index >= 0);
}

napi_value fdb_made_tls(napi_env env, napi_callback_info info) {
  fdb_call call;
  napi_value handle;
  if (!fdb_enter(env, info, 0, &call)) return NULL;
  void *ssl = made == 1 ? newest : NULL;
  newest = NULL;
  made = 0;
  if (ssl == NULL) return fdb_null(env);
  tls_connection *connection = malloc(sizeof(*connection));
  if (connection == NULL) return fdb_throw(env, ENOMEM, "malloc");
  *connection = (tls_connection){ .magic = MAGIC, .self = call.self, .references = 1 };
  if (napi_create_external(env, connection, finalize, NULL, &handle) != napi_ok) {
    free(connection);
    return NULL;
  }
  if (SSL_set_ex_data(ssl, ex_index, connection) != 1) return fdb_null(env);
  connection->ssl = ssl;
  connection->references++;
  return handle;
}

/* Reports whether `finished` is of this connection, whose handshake is complete. */
static bool is_same(void *ssl, const fdb_bytes *finished) {
  uint8_t own[MOST_FINISHED];
  size_t length = SSL_get_finished(ssl, own, sizeof(own));
  return length > 0 && length == finished->length && memcmp(own, finished->data, length) == 0 && SSL_is_init_finished(ssl) == 1;
}

/* Reports whether Node would write now with the next call: no write or shutdown is under way. */
static bool is_writable(void *ssl, const fdb_bytes *finished) {
  int want = SSL_want(ssl);
  return is_same(ssl, finished) && SSL_get_shutdown(ssl) == 0 && (want == NOTHING || want == READING);
}

/* Reports whether OpenSSL has bytes that it has not passed on, or waits for the body of a record whose header alone has come. */
static bool is_amid_record(void *ssl) {
  return SSL_has_pending(ssl) != 0 || strcmp(SSL_rstate_string(ssl), "RH") != 0 || BIO_ctrl_pending(SSL_get_rbio(ssl)) > 0;
}

/* Reads the first argument, and the second one. Returns NULL after an exception. */
static tls_connection *connection_of(napi_env env, const fdb_call *call, fdb_bytes *finished) {
  void *data = NULL;
  tls_connection *connection = NULL;
  if (napi_get_value_external(env, call->argv[0], &data) == napi_ok) connection = data;
  if (connection == NULL || connection->magic != MAGIC || connection->self != call->self) {
    fdb_throw_type(env, "the first argument must be a TLS connection of this thread");
    return NULL;
  }
  return fdb_view(env, call->argv[1], "finished", finished) ? connection : NULL;
}

napi_value fdb_amid_tls_record(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes finished;
  if (!fdb_enter(env, info, 2, &call)) return NULL;
  tls_connection *connection = connection_of(env, &call, &finished);
  if (connection == NULL) return NULL;
  if (connection->ssl == NULL || !is_same(connection->ssl, &finished)) return fdb_null(env);
  return fdb_bool_value(env, is_amid_record(connection->ssl));
}

napi_value fdb_write_tls(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_bytes finished, bytes;
  if (!fdb_enter(env, info, 3, &call)) return NULL;
  tls_connection *connection = connection_of(env, &call, &finished);
  if (connection == NULL || !fdb_view(env, call.argv[2], "bytes", &bytes)) return NULL;
  if (bytes.length == 0 || bytes.length > INT16_MAX) return fdb_throw_range(env, "1 to %d bytes can be written, got %zu", INT16_MAX, bytes.length);
  if (connection->ssl == NULL || !is_writable(connection->ssl, &finished)) return fdb_bool_value(env, false);
  ERR_clear_error();
  int written = SSL_write(connection->ssl, bytes.data, (int)bytes.length);
  ERR_clear_error();
  return fdb_bool_value(env, written == (int)bytes.length);
}
