/*
 * Seals the KeyUpdate with which a TLS 1.3 connection leaves this process (RFC 8446, 4.6.3, 5.2, 7.1 to 7.3). In JavaScript that takes three objects for HMAC and one cipher for each
 * connection, a fifth of the processor time of the first upgrade.
 *
 * Node exports OpenSSL to addons. Where it does not, or is built with another library (BoringSSL), JavaScript seals the record.
 */
#include "fdb.h"

#include <string.h>

#define OPENSSL_MAJOR 3
#define GET_TAG 0x10 /* EVP_CTRL_AEAD_GET_TAG */
#define HEADER_BYTES 5
#define TAG_BYTES 16
#define IV_BYTES 12
#define MOST_KEY 32
#define MOST_SECRET 48
#define MOST_LABEL 32
#define MOST_HASH 64 /* EVP_MAX_MD_SIZE */

/* Functions of OpenSSL. A weak symbol is NULL if the process has none of this name. */
#define WEAK __attribute__((weak))
WEAK extern unsigned int OPENSSL_version_major(void);
WEAK extern void OPENSSL_cleanse(void *bytes, size_t length);
WEAK extern void ERR_clear_error(void);
WEAK extern const void *EVP_sha256(void);
WEAK extern const void *EVP_sha384(void);
WEAK extern const void *EVP_aes_128_gcm(void);
WEAK extern const void *EVP_aes_256_gcm(void);
WEAK extern const void *EVP_chacha20_poly1305(void);
WEAK extern uint8_t *HMAC(const void *hash, const void *key, int key_length, const uint8_t *data, size_t length, uint8_t *into, unsigned *into_length);
WEAK extern void *EVP_CIPHER_CTX_new(void);
WEAK extern void EVP_CIPHER_CTX_free(void *context);
WEAK extern int EVP_CIPHER_CTX_ctrl(void *context, int type, int number, void *pointer);
WEAK extern int EVP_EncryptInit_ex(void *context, const void *cipher, void *engine, const uint8_t *key, const uint8_t *iv);
WEAK extern int EVP_EncryptUpdate(void *context, uint8_t *into, int *into_length, const uint8_t *from, int length);
WEAK extern int EVP_EncryptFinal_ex(void *context, uint8_t *into, int *into_length);

static bool has_openssl(void) {
  return OPENSSL_version_major != NULL && OPENSSL_cleanse != NULL && ERR_clear_error != NULL && EVP_sha256 != NULL && EVP_sha384 != NULL &&
         EVP_aes_128_gcm != NULL && EVP_aes_256_gcm != NULL && EVP_chacha20_poly1305 != NULL && HMAC != NULL && EVP_CIPHER_CTX_new != NULL &&
         EVP_CIPHER_CTX_free != NULL && EVP_CIPHER_CTX_ctrl != NULL && EVP_EncryptInit_ex != NULL && EVP_EncryptUpdate != NULL &&
         EVP_EncryptFinal_ex != NULL && OPENSSL_version_major() == OPENSSL_MAJOR;
}

/* In the order of the numbers in JavaScript (key-schedule.ts). */
enum { AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, SUITES };

/* HKDF-Expand-Label with an empty context; `length` is at most that of the hash. */
static bool expand(const void *hash, const fdb_bytes *secret, const char *label, uint8_t *into, size_t length) {
  uint8_t info[4 + MOST_LABEL], block[MOST_HASH];
  size_t name = strlen(label);
  info[0] = 0;
  info[1] = (uint8_t)length;
  info[2] = (uint8_t)name;
  memcpy(info + 3, label, name);
  info[3 + name] = 0;
  info[4 + name] = 1;
  unsigned made = 0;
  bool works = HMAC(hash, secret->data, (int)secret->length, info, name + 5, block, &made) != NULL && made >= length;
  if (works) memcpy(into, block, length);
  OPENSSL_cleanse(block, sizeof(block));
  return works;
}

static bool seal(const void *cipher, const uint8_t *key, const uint8_t *nonce, uint8_t *record) {
  /* The message, which asks for none, and the type of the content. */
  static const uint8_t inner[] = { 24, 0, 0, 1, 0, 22 };
  static const uint8_t header[HEADER_BYTES] = { 23, 3, 3, 0, sizeof(inner) + TAG_BYTES };
  uint8_t *sealed = record + HEADER_BYTES;
  int length = 0;
  void *context = EVP_CIPHER_CTX_new();
  memcpy(record, header, HEADER_BYTES);
  bool works = context != NULL && EVP_EncryptInit_ex(context, cipher, NULL, key, nonce) == 1 &&
               EVP_EncryptUpdate(context, NULL, &length, header, HEADER_BYTES) == 1 &&
               EVP_EncryptUpdate(context, sealed, &length, inner, sizeof(inner)) == 1 && length == sizeof(inner) &&
               EVP_EncryptFinal_ex(context, sealed + sizeof(inner), &length) == 1 && length == 0 &&
               EVP_CIPHER_CTX_ctrl(context, GET_TAG, TAG_BYTES, sealed + sizeof(inner)) == 1;
  EVP_CIPHER_CTX_free(context);
  return works;
}

napi_value fdb_seal_key_update(napi_env env, napi_callback_info info) {
  fdb_call call;
  int suite;
  double sequence;
  fdb_bytes secret, record;
  if (!fdb_enter(env, info, 4, &call) || !fdb_int(env, call.argv[0], "suite", 0, SUITES - 1, &suite)) return NULL;
  if (!fdb_integer(env, call.argv[2], "sequence", 0, 9007199254740991.0, &sequence)) return NULL;
  if (!fdb_view(env, call.argv[1], "secret", &secret) || !fdb_view(env, call.argv[3], "record", &record)) return NULL;
  size_t secret_bytes = suite == AES_256_GCM ? MOST_SECRET : 32;
  if (secret.length != secret_bytes || record.length != HEADER_BYTES + 6 + TAG_BYTES)
    return fdb_throw_range(env, "the secret must have %zu bytes and the record 27, got %zu and %zu", secret_bytes, secret.length, record.length);
  if (!has_openssl()) return fdb_bool_value(env, false);
  const void *hash = suite == AES_256_GCM ? EVP_sha384() : EVP_sha256();
  const void *cipher = suite == AES_128_GCM ? EVP_aes_128_gcm() : suite == AES_256_GCM ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
  uint8_t key[MOST_KEY], nonce[IV_BYTES], next[MOST_SECRET];
  uint64_t number = (uint64_t)sequence;
  bool works = expand(hash, &secret, "tls13 key", key, suite == AES_128_GCM ? 16 : MOST_KEY) &&
               expand(hash, &secret, "tls13 iv", nonce, IV_BYTES) && expand(hash, &secret, "tls13 traffic upd", next, secret_bytes);
  if (works) {
    for (size_t i = 0; i < sizeof(number); i++) nonce[IV_BYTES - 1 - i] ^= (uint8_t)(number >> (8 * i));
    works = seal(cipher, key, nonce, record.data);
  }
  if (works) memcpy(secret.data, next, secret_bytes);
  OPENSSL_cleanse(key, sizeof(key));
  OPENSSL_cleanse(nonce, sizeof(nonce));
  OPENSSL_cleanse(next, sizeof(next));
  ERR_clear_error();
  return fdb_bool_value(env, works);
}
