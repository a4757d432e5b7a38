/* Decodes many changes of a state record in one call: their fields, the hash of the key, and a checksum of section, op and key. */
#include "fdb.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0xedb88320u

/* The result for one change. KNOWN is 0 if the caller must decode the change itself: it is invalid, has a rare field, or its key is empty or not ASCII. */
enum { KNOWN, OP, VERSION, SECTION, SECTION_END, KEY, KEY_END, VALUE, VALUE_END, HASH, PRINT, FIELDS };

/* Tags of a Change in proto/state.proto. */
enum { TAG_SECTION = 1 << 3 | 2, TAG_OP = 2 << 3, TAG_KEY = 3 << 3 | 2, TAG_VALUE = 4 << 3 | 2, TAG_VERSION = 5 << 3 };

/* table[n]: the CRC-32 of each byte followed by n zero bytes. */
static uint32_t table[4][256];
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void make_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; bit++) sum = sum & 1 ? sum >> 1 ^ POLYNOMIAL : sum >> 1;
    table[0][byte] = sum;
  }
  for (int zeros = 1; zeros < 4; zeros++)
    for (int byte = 0; byte < 256; byte++) {
      uint32_t sum = table[zeros - 1][byte];
      table[zeros][byte] = table[0][sum & 0xff] ^ sum >> 8;
    }
}

static uint32_t four_bytes(const uint8_t *data) {
  return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

static uint32_t crc32(const uint8_t *data, size_t length, uint32_t sum) {
  sum = ~sum;
  for (; length >= 4; data += 4, length -= 4) {
    uint32_t four = sum ^ four_bytes(data);
    sum = table[3][four & 0xff] ^ table[2][four >> 8 & 0xff] ^ table[1][four >> 16 & 0xff] ^ table[0][four >> 24];
  }
  for (; length > 0; data++, length--) sum = table[0][(sum ^ *data) & 0xff] ^ sum >> 8;
  return ~sum;
}

static uint32_t scrambled(uint32_t word) {
  word *= 0xcc9e2d51u;
  return (word << 15 | word >> 17) * 0x1b873593u;
}

/* MurmurHash3, as hashOf() of src/state/key-bytes.ts. Returns false if the data is not ASCII. */
static bool hash_of(const uint8_t *data, size_t length, uint32_t hash, uint32_t *into) {
  uint32_t all = 0, rest = 0, total = (uint32_t)length;
  for (; length >= 4; data += 4, length -= 4) {
    uint32_t word = four_bytes(data);
    all |= word;
    hash ^= scrambled(word);
    hash = (hash << 13 | hash >> 19) * 5 + 0xe6546b64u;
  }
  for (int shift = 0; length > 0; data++, length--, shift += 8) rest |= (uint32_t)*data << shift;
  hash ^= scrambled(rest) ^ total;
  hash = (hash ^ hash >> 16) * 0x85ebca6bu;
  hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
  *into = hash ^ hash >> 16;
  return ((all | rest) & 0x80808080u) == 0;
}

static bool number(const uint8_t *data, size_t *at, size_t end, uint32_t *into) {
  uint64_t value = 0;
  for (int shift = 0; shift < 35 && *at < end; shift += 7) {
    uint8_t byte = data[(*at)++];
    value |= (uint64_t)(byte & 127) << shift;
    if (byte >= 128) continue;
    *into = (uint32_t)value;
    return value <= UINT32_MAX;
  }
  return false;
}

static bool scan(const uint8_t *data, size_t at, size_t end, uint32_t *into) {
  into[OP] = into[VERSION] = 0;
  for (int field = SECTION; field <= VALUE_END; field++) into[field] = (uint32_t)at;
  while (at < end) {
    uint8_t tag = data[at++];
    uint32_t value;
    if (!number(data, &at, end, &value)) return false;
    if (tag == TAG_OP || tag == TAG_VERSION) {
      into[tag == TAG_OP ? OP : VERSION] = value;
      continue;
    }
    if (tag != TAG_SECTION && tag != TAG_KEY && tag != TAG_VALUE) return false;
    if (value > end - at) return false;
    uint32_t *field = into + (tag == TAG_SECTION ? SECTION : tag == TAG_KEY ? KEY : VALUE);
    field[0] = (uint32_t)at;
    field[1] = (uint32_t)(at += value);
  }
  return true;
}

/* Caches the checksum of section and op, which consecutive changes usually share. */
typedef struct common {
  const uint8_t *section;
  size_t length;
  uint32_t op, sum;
} common;

static uint32_t common_sum(common *last, const uint8_t *section, size_t length, uint32_t op) {
  if (last->section == NULL || last->op != op || last->length != length || memcmp(last->section, section, length) != 0) {
    uint8_t byte = (uint8_t)op;
    *last = (common){ section, length, op, crc32(&byte, 1, crc32(section, length, 0)) };
  }
  return last->sum;
}

/* Arguments (buffer, ranges, count, seed, into): see ChangeCursor in src/state/change-cursor.ts. */
napi_value fdb_scan_changes(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_words ranges, into;
  fdb_bytes buffer;
  int count;
  double seed;
  if (!fdb_enter(env, info, 5, &call) || !fdb_int(env, call.argv[2], "count", 0, 1 << 24, &count) ||
      !fdb_integer(env, call.argv[3], "seed", 0, UINT32_MAX, &seed) ||
      !fdb_view(env, call.argv[0], "buffer", &buffer) || !fdb_words_of(env, call.argv[1], "ranges", &ranges) ||
      !fdb_words_of(env, call.argv[4], "into", &into))
    return NULL;
  if (ranges.count / 2 < (size_t)count || into.count / FIELDS < (size_t)count)
    return fdb_throw_range(env, "ranges and room are needed for %d changes", count);
  pthread_once(&made, make_table);
  common last = { 0 };
  for (int i = 0; i < count; i++) {
    uint32_t start = ranges.data[2 * i], end = ranges.data[2 * i + 1], *change = into.data + i * FIELDS;
    if (start > end || end > buffer.length)
      return fdb_throw_range(env, "change %d exceeds the buffer of %zu bytes", i, buffer.length);
    change[KNOWN] = 0;
    if (!scan(buffer.data, start, end, change)) continue;
    const uint8_t *key = buffer.data + change[KEY];
    size_t length = change[KEY_END] - change[KEY];
    /* Leaves empty keys to the caller: for them zlib's crc32() returns 0, unlike the crc32() of this file. */
    if (length == 0 || change[OP] > UINT8_MAX || !hash_of(key, length, (uint32_t)seed, &change[HASH])) continue;
    const uint8_t *section = buffer.data + change[SECTION];
    change[PRINT] = crc32(key, length, common_sum(&last, section, change[SECTION_END] - change[SECTION], change[OP]));
    change[KNOWN] = 1;
  }
  return fdb_undefined(env);
}
