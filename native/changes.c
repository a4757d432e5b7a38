/* Finds and decodes many changes of a state record in one call: their fields, and a checksum of section, op and key. */
#include "fdb.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0xedb88320u
#define OP_PUT 0
#define FRAME_HEADER 8 /* length and CRC-32 of a record */

/* Tags of a Record in proto/state.proto. */
enum { TAG_EPOCH = 1 << 3, TAG_SEQUENCE = 2 << 3, TAG_CHANGE = 4 << 3 | 2 };

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

static bool is_ascii(const uint8_t *data, size_t length) {
  uint32_t all = 0;
  for (; length >= 4; data += 4, length -= 4) all |= four_bytes(data);
  for (; length > 0; data++, length--) all |= *data;
  return (all & 0x80808080u) == 0;
}

static bool large_number(const uint8_t *data, size_t *at, size_t end, uint64_t *into) {
  uint64_t value = 0;
  for (int shift = 0; shift < 56 && *at < end; shift += 7) {
    uint8_t byte = data[(*at)++];
    value |= (uint64_t)(byte & 127) << shift;
    if (byte >= 128) continue;
    *into = value;
    return true;
  }
  return false;
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
  into[FDB_OP] = into[FDB_VERSION] = 0;
  for (int field = FDB_SECTION; field <= FDB_VALUE_END; field++) into[field] = (uint32_t)at;
  while (at < end) {
    uint8_t tag = data[at++];
    uint32_t value;
    if (!number(data, &at, end, &value)) return false;
    if (tag == TAG_OP || tag == TAG_VERSION) {
      into[tag == TAG_OP ? FDB_OP : FDB_VERSION] = value;
      continue;
    }
    if (tag != TAG_SECTION && tag != TAG_KEY && tag != TAG_VALUE) return false;
    if (value > end - at) return false;
    uint32_t *field = into + (tag == TAG_SECTION ? FDB_SECTION : tag == TAG_KEY ? FDB_KEY : FDB_VALUE);
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

/* Whether both changes are puts of the same section. */
static bool is_run(const uint8_t *data, const uint32_t *change, const uint32_t *next) {
  uint32_t length = change[FDB_SECTION_END] - change[FDB_SECTION];
  return next[FDB_RUN] > 0 && change[FDB_OP] == OP_PUT && next[FDB_OP] == OP_PUT &&
         next[FDB_SECTION_END] - next[FDB_SECTION] == length &&
         memcmp(data + change[FDB_SECTION], data + next[FDB_SECTION], length) == 0;
}

/* Arguments (buffer, ranges, first, count, most, into): see ChangeCursor in src/state/change-cursor.ts. */
napi_value fdb_scan_runs(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_words ranges, into;
  fdb_bytes buffer;
  int first, count;
  double most;
  if (!fdb_enter(env, info, 6, &call) || !fdb_int(env, call.argv[2], "first", 0, 1 << 24, &first) ||
      !fdb_int(env, call.argv[3], "count", 0, 1 << 24, &count) ||
      !fdb_integer(env, call.argv[4], "most", 0, 9007199254740991.0, &most) ||
      !fdb_view(env, call.argv[0], "buffer", &buffer) || !fdb_words_of(env, call.argv[1], "ranges", &ranges) ||
      !fdb_words_of(env, call.argv[5], "into", &into))
    return NULL;
  if (ranges.count / 2 < (size_t)first + (size_t)count || into.count / FDB_CHANGE_FIELDS < (size_t)count)
    return fdb_throw_range(env, "ranges and room are needed for %d changes", count);
  pthread_once(&made, make_table);
  common last = { 0 };
  const uint32_t *range = ranges.data + 2 * (size_t)first;
  uint32_t *change = into.data;
  for (int i = 0; i < count; i++, range += 2, change += FDB_CHANGE_FIELDS) {
    if (range[0] > range[1] || range[1] > buffer.length)
      return fdb_throw_range(env, "change %d exceeds the buffer of %zu bytes", i, buffer.length);
    change[FDB_RUN] = 0;
    if (!scan(buffer.data, range[0], range[1], change)) continue;
    const uint8_t *key = buffer.data + change[FDB_KEY];
    size_t length = change[FDB_KEY_END] - change[FDB_KEY];
    /* Leaves empty keys to the caller: for them zlib's crc32() returns 0, unlike the crc32() of this file. */
    if (length == 0 || (double)length > most || change[FDB_OP] > UINT8_MAX || !is_ascii(key, length)) continue;
    const uint8_t *section = buffer.data + change[FDB_SECTION];
    change[FDB_PRINT] =
        crc32(key, length, common_sum(&last, section, change[FDB_SECTION_END] - change[FDB_SECTION], change[FDB_OP]));
    change[FDB_RUN] = 1;
  }
  for (int i = count - 2; i >= 0; i--) {
    change = into.data + (size_t)i * FDB_CHANGE_FIELDS;
    const uint32_t *next = change + FDB_CHANGE_FIELDS;
    if (change[FDB_RUN] > 0 && is_run(buffer.data, change, next)) change[FDB_RUN] = next[FDB_RUN] + 1;
  }
  return fdb_undefined(env);
}

/* Arguments (buffer, start, end, into): writes start and end of each change of a record that begins at `start`, as long as the next field is a change
   and `into` has room. Returns how many. */
napi_value fdb_find_changes(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_words into;
  fdb_bytes buffer;
  double start, end;
  if (!fdb_enter(env, info, 4, &call) || !fdb_integer(env, call.argv[1], "start", 0, UINT32_MAX, &start) ||
      !fdb_integer(env, call.argv[2], "end", 0, UINT32_MAX, &end) || !fdb_view(env, call.argv[0], "buffer", &buffer) ||
      !fdb_words_of(env, call.argv[3], "into", &into))
    return NULL;
  if (start > end || end > (double)buffer.length)
    return fdb_throw_range(env, "%.0f to %.0f exceeds the buffer of %zu bytes", start, end, buffer.length);
  size_t at = (size_t)start, stop = (size_t)end, count = 0;
  for (; count < into.count / 2 && at < stop && buffer.data[at] == TAG_CHANGE; count++) {
    uint32_t length;
    at++;
    if (!number(buffer.data, &at, stop, &length) || length > stop - at) break;
    into.data[2 * count] = (uint32_t)at;
    into.data[2 * count + 1] = (uint32_t)(at += length);
  }
  return fdb_int_value(env, (int64_t)count);
}

/* Reads a record of epoch, sequence number and one change, which is last. Returns false for any other. */
static bool one_change(const uint8_t *data, size_t at, size_t end, uint64_t *epoch, uint64_t *sequence, uint32_t range[2]) {
  uint32_t length;
  *epoch = *sequence = 0;
  while (at < end) {
    uint8_t tag = data[at++];
    if (tag == TAG_CHANGE) {
      if (!number(data, &at, end, &length) || length != end - at) return false;
      range[0] = (uint32_t)at;
      range[1] = (uint32_t)end;
      return true;
    }
    if (tag != TAG_EPOCH && tag != TAG_SEQUENCE) return false;
    if (!large_number(data, &at, end, tag == TAG_EPOCH ? epoch : sequence)) return false;
  }
  return false;
}

/* Arguments (buffer, start, end, epoch, sequence, most, most_key, into): see findPuts() in src/kernel/native.ts. */
napi_value fdb_find_puts(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_words into;
  fdb_bytes buffer;
  double numbers[6];
  static const char *const names[6] = { "start", "end", "epoch", "sequence", "most", "most_key" };
  if (!fdb_enter(env, info, 8, &call)) return NULL;
  for (int i = 0; i < 6; i++)
    if (!fdb_integer(env, call.argv[i + 1], names[i], 0, i < 2 ? UINT32_MAX : 9007199254740991.0, &numbers[i])) return NULL;
  if (!fdb_view(env, call.argv[0], "buffer", &buffer) || !fdb_words_of(env, call.argv[7], "into", &into)) return NULL;
  if (numbers[0] > numbers[1] || numbers[1] > (double)buffer.length)
    return fdb_throw_range(env, "%.0f to %.0f exceeds the buffer of %zu bytes", numbers[0], numbers[1], buffer.length);
  size_t at = (size_t)numbers[0], end = (size_t)numbers[1], count = 0;
  uint32_t changes[2][FDB_CHANGE_FIELDS];
  pthread_once(&made, make_table);
  for (; count < into.count / 2 && end - at > FRAME_HEADER; count++) {
    const uint8_t *data = buffer.data;
    uint32_t length = four_bytes(data + at), *range = into.data + 2 * count, *change = changes[count & 1];
    uint64_t epoch, sequence;
    size_t start = at + FRAME_HEADER;
    if (length == 0 || length > end - start || (double)length > numbers[4]) break;
    if (!one_change(data, start, start + length, &epoch, &sequence, range)) break;
    if ((double)epoch != numbers[2] || (double)sequence != numbers[3] + (double)count) break;
    if (!scan(data, range[0], range[1], change) || change[FDB_OP] != OP_PUT) break;
    size_t key = change[FDB_KEY_END] - change[FDB_KEY];
    if (key == 0 || (double)key > numbers[5] || !is_ascii(data + change[FDB_KEY], key)) break;
    change[FDB_RUN] = 1;
    if (count > 0 && !is_run(data, changes[(count - 1) & 1], change)) break;
    if (crc32(data + start, length, 0) != four_bytes(data + at + 4)) break;
    at = start + length;
  }
  return fdb_int_value(env, (int64_t)count);
}

/* Arguments (buffer, ranges, count, seed, into), for releases up to 0.4.0: writes for each change that the caller must decode it itself. */
napi_value fdb_scan_changes(napi_env env, napi_callback_info info) {
  enum { FIELDS_BEFORE = 11 };
  fdb_call call;
  fdb_words into;
  int count;
  if (!fdb_enter(env, info, 5, &call) || !fdb_int(env, call.argv[2], "count", 0, 1 << 24, &count) ||
      !fdb_words_of(env, call.argv[4], "into", &into))
    return NULL;
  if (into.count / FIELDS_BEFORE < (size_t)count) return fdb_throw_range(env, "room is needed for %d changes", count);
  for (int i = 0; i < count; i++) into.data[i * FIELDS_BEFORE] = 0;
  return fdb_undefined(env);
}
