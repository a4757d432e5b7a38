/*
 * The keys of a section of the state, each with a number below 2^32 - 2 or null: a hash table outside the JavaScript heap, with functions for many keys
 * in one call. V8 knows its size, and the garbage collector or the end of the environment frees it.
 *
 * Up to ALONE keys are one part, in insertion order; more are PARTS parts, selected by the hash, so that no call copies more than one part. The hash has
 * a random seed, because clients choose keys.
 */
#include "fdb.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define MAGIC UINT64_C(0x9b3c5e1d74f0a286)
#define ALONE 16384
#define PARTS 256
#define PART_SHIFT 56
#define LEAST 8
#define LEAST_BYTES 128
#define MOST_AT_ONCE 4096
#define AHEAD 32
#define SHORT 512

/* Values of keys that a part does not have or has no more, and of null. */
#define NONE UINT32_MAX
#define NULL_VALUE (UINT32_MAX - 1)

/* The key ends at this offset in the part's bytes, and begins where the one before it ends. */
typedef struct entry {
  uint32_t hash, value, end;
} entry;

typedef struct part {
  uint32_t *index; /* open addressing, 2 * room numbers: 1 + the place of an entry, 0: none */
  entry *entries;  /* in insertion order; a deleted one has the value NONE */
  uint8_t *bytes;
  uint32_t room, count, live; /* entries: allocated, used, not deleted */
  uint32_t bytes_room, live_bytes;
} part;

typedef struct fdb_keys {
  uint64_t magic;
  fdb_instance *self;
  part *parts;
  uint32_t part_count;
  uint32_t live;
  size_t most;      /* allocates no more bytes than this */
  size_t allocated; /* bytes */
  size_t reported;  /* bytes that V8 knows of */
} fdb_keys;

static uint64_t turned(uint64_t word, int by) { return word << by | word >> (64 - by); }

#define ROUND(v0, v1, v2, v3)                                                                     \
  do {                                                                                            \
    v0 += v1, v2 += v3, v1 = turned(v1, 13) ^ v0, v3 = turned(v3, 16) ^ v2, v0 = turned(v0, 32); \
    v2 += v1, v0 += v3, v1 = turned(v1, 17) ^ v2, v3 = turned(v3, 21) ^ v0, v2 = turned(v2, 32); \
  } while (0)

/* SipHash-1-3 (Jean-Philippe Aumasson, Daniel J. Bernstein): a client that does not know the seed cannot choose keys of one hash. */
static uint64_t hash_of(const uint64_t seed[2], const uint8_t *data, size_t length) {
  uint64_t v0 = seed[0] ^ 0x736f6d6570736575, v1 = seed[1] ^ 0x646f72616e646f6d;
  uint64_t v2 = seed[0] ^ 0x6c7967656e657261, v3 = seed[1] ^ 0x7465646279746573;
  uint64_t last = (uint64_t)length << 56, word;
  for (; length >= 8; data += 8, length -= 8) {
    memcpy(&word, data, 8);
    v3 ^= word;
    ROUND(v0, v1, v2, v3);
    v0 ^= word;
  }
  for (size_t i = 0; i < length; i++) last |= (uint64_t)data[i] << 8 * i;
  v3 ^= last;
  ROUND(v0, v1, v2, v3);
  v0 ^= last;
  v2 ^= 0xff;
  for (int i = 0; i < 3; i++) ROUND(v0, v1, v2, v3);
  return v0 ^ v1 ^ v2 ^ v3;
}

static void *take(fdb_keys *keys, size_t size) {
  if (size > keys->most - keys->allocated) return NULL;
  void *memory = malloc(size);
  if (memory != NULL) keys->allocated += size;
  return memory;
}

static void give_back(fdb_keys *keys, void *memory, size_t size) {
  if (memory == NULL) return;
  free(memory);
  keys->allocated -= size;
}

static void empty_part(fdb_keys *keys, part *of) {
  give_back(keys, of->index, 2 * (size_t)of->room * sizeof(*of->index));
  give_back(keys, of->entries, of->room * sizeof(*of->entries));
  give_back(keys, of->bytes, of->bytes_room);
  *of = (part){ 0 };
}

static void empty_parts(fdb_keys *keys, part *parts, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) empty_part(keys, &parts[i]);
  give_back(keys, parts, count * sizeof(*parts));
}

/* Makes an empty part for as many keys of so many bytes, with room for as many again. */
static bool make_part(fdb_keys *keys, part *into, uint32_t live, uint64_t bytes) {
  uint64_t room = LEAST, bytes_room = bytes < LEAST_BYTES / 2 ? LEAST_BYTES : 2 * bytes;
  while (room < 2 * (uint64_t)live) room *= 2;
  if (bytes_room > UINT32_MAX) bytes_room = UINT32_MAX;
  if (bytes > bytes_room || room > UINT32_MAX / 4) return false;
  *into = (part){ .room = (uint32_t)room, .bytes_room = (uint32_t)bytes_room };
  into->index = take(keys, 2 * (size_t)room * sizeof(*into->index));
  into->entries = take(keys, (size_t)room * sizeof(*into->entries));
  into->bytes = take(keys, (size_t)bytes_room);
  if (into->index == NULL || into->entries == NULL || into->bytes == NULL) {
    empty_part(keys, into);
    return false;
  }
  memset(into->index, 0, 2 * (size_t)room * sizeof(*into->index));
  return true;
}

static uint32_t start_of(const part *in, uint32_t place) { return place == 0 ? 0 : in->entries[place - 1].end; }

/* The part must have room, and not have the key. */
static void append(part *to, uint32_t hash, const uint8_t *key, uint32_t length, uint32_t value) {
  uint32_t mask = 2 * to->room - 1, at = hash & mask, start = start_of(to, to->count);
  while (to->index[at] != 0) at = (at + 1) & mask;
  if (length > 0) memcpy(to->bytes + start, key, length);
  to->entries[to->count] = (entry){ hash, value, start + length };
  to->index[at] = ++to->count;
  to->live++;
  to->live_bytes += length;
}

static part *part_of(const fdb_keys *keys, uint64_t hash) {
  return &keys->parts[keys->part_count == 1 ? 0 : hash >> PART_SHIFT];
}

/* Makes room for one more key: copies the keys of the part, in their order, without those that were deleted. */
static bool rebuild(fdb_keys *keys, part *of, uint32_t length) {
  part fresh;
  if (!make_part(keys, &fresh, of->live, (uint64_t)of->live_bytes + length)) return false;
  for (uint32_t place = 0, start = 0; place < of->count; start = of->entries[place++].end) {
    const entry *one = &of->entries[place];
    if (one->value != NONE) append(&fresh, one->hash, of->bytes + start, one->end - start, one->value);
  }
  empty_part(keys, of);
  *of = fresh;
  return true;
}

/* Divides the keys of the only part among PARTS. Changes nothing if there is not enough memory. */
static bool divide(fdb_keys *keys) {
  part *alone = keys->parts, *parts = take(keys, PARTS * sizeof(*parts));
  uint32_t counts[PARTS] = { 0 }, bytes[PARTS] = { 0 };
  if (parts == NULL) return false;
  memset(parts, 0, PARTS * sizeof(*parts));
  const uint64_t *seed = keys->self->key_seed;
  for (int pass = 0; pass < 2; pass++) {
    for (uint32_t place = 0, start = 0; place < alone->count; start = alone->entries[place++].end) {
      const entry *one = &alone->entries[place];
      if (one->value == NONE) continue;
      const uint8_t *key = alone->bytes + start;
      uint64_t to = hash_of(seed, key, one->end - start) >> PART_SHIFT;
      if (pass == 1) append(&parts[to], one->hash, key, one->end - start, one->value);
      else counts[to]++, bytes[to] += one->end - start;
    }
    for (int i = 0; pass == 0 && i < PARTS; i++) {
      if (counts[i] == 0 || make_part(keys, &parts[i], counts[i], bytes[i])) continue;
      empty_parts(keys, parts, PARTS);
      return false;
    }
  }
  empty_parts(keys, alone, 1);
  keys->parts = parts;
  keys->part_count = PARTS;
  return true;
}

/* Returns the position of the key in the part's index, or -1. */
static int64_t find(const part *in, uint32_t hash, const uint8_t *key, uint32_t length) {
  if (in->live == 0) return -1;
  uint32_t mask = 2 * in->room - 1;
  for (uint32_t at = hash & mask; in->index[at] != 0; at = (at + 1) & mask) {
    uint32_t place = in->index[at] - 1, start = start_of(in, place);
    const entry *one = &in->entries[place];
    if (one->hash != hash || one->end - start != length) continue;
    if (length == 0 || memcmp(in->bytes + start, key, length) == 0) return at;
  }
  return -1;
}

static uint32_t get(const fdb_keys *keys, uint64_t hash, const uint8_t *key, uint32_t length) {
  const part *in = part_of(keys, hash);
  int64_t at = find(in, (uint32_t)hash, key, length);
  return at < 0 ? NONE : in->entries[in->index[at] - 1].value;
}

/* Sets `*before` to the value before, or NONE. Returns false, without effect, if there is not enough memory. */
static bool set(fdb_keys *keys, uint64_t hash, const uint8_t *key, uint32_t length, uint32_t value, uint32_t *before) {
  part *in = part_of(keys, hash);
  int64_t at = find(in, (uint32_t)hash, key, length);
  if (at >= 0) {
    entry *one = &in->entries[in->index[at] - 1];
    *before = one->value;
    one->value = value;
    return true;
  }
  if (keys->part_count == 1 && keys->live >= ALONE) {
    if (!divide(keys)) return false;
    in = part_of(keys, hash);
  }
  if (in->count == in->room || length > in->bytes_room - start_of(in, in->count))
    if (!rebuild(keys, in, length)) return false;
  append(in, (uint32_t)hash, key, length, value);
  keys->live++;
  *before = NONE;
  return true;
}

static bool delete(fdb_keys *keys, uint64_t hash, const uint8_t *key, uint32_t length) {
  part *in = part_of(keys, hash);
  int64_t at = find(in, (uint32_t)hash, key, length);
  if (at < 0) return false;
  in->entries[in->index[at] - 1].value = NONE;
  in->live--;
  in->live_bytes -= length;
  keys->live--;
  /* Moves back the later entries of the run that begin at this position or before it, so that a search finds them. */
  uint32_t mask = 2 * in->room - 1, hole = (uint32_t)at;
  for (uint32_t next = (hole + 1) & mask; in->index[next] != 0; next = (next + 1) & mask) {
    uint32_t home = in->entries[in->index[next] - 1].hash & mask;
    if (((next - home) & mask) < ((next - hole) & mask)) continue;
    in->index[hole] = in->index[next];
    hole = next;
  }
  in->index[hole] = 0;
  if (in->live == 0) in->count = 0;
  return true;
}

/* Call it last: V8 may collect garbage. */
static void report(napi_env env, fdb_keys *keys) {
  if (keys->allocated == keys->reported) return;
  int64_t all, more = (int64_t)keys->allocated - (int64_t)keys->reported;
  if (napi_adjust_external_memory(env, more, &all) == napi_ok) keys->reported = keys->allocated;
}

static void finalize_keys(napi_env env, void *data, void *hint) {
  (void)hint;
  fdb_keys *keys = data;
  empty_parts(keys, keys->parts, keys->part_count);
  report(env, keys);
  keys->magic = 0;
  free(keys);
}

/* Arguments: the most bytes to allocate. */
napi_value fdb_create_keys(napi_env env, napi_callback_info info) {
  fdb_call call;
  double most;
  napi_value handle;
  if (!fdb_enter(env, info, 1, &call) || !fdb_integer(env, call.argv[0], "most", 0, 9007199254740991.0, &most))
    return NULL;
  fdb_instance *self = call.self;
  int failed = self->key_seed[0] != 0 ? 0 : uv_random(NULL, NULL, self->key_seed, sizeof(self->key_seed), 0, NULL);
  if (failed < 0) return fdb_throw(env, -failed, "getrandom");
  fdb_keys *keys = calloc(1, sizeof(*keys));
  if (keys == NULL) return fdb_throw(env, ENOMEM, "calloc");
  *keys = (fdb_keys){ .magic = MAGIC, .self = self, .part_count = 1, .most = (size_t)most };
  keys->parts = take(keys, sizeof(*keys->parts));
  if (keys->parts == NULL) {
    free(keys);
    return fdb_throw(env, ENOMEM, "malloc");
  }
  *keys->parts = (part){ 0 };
  if (napi_create_external(env, keys, finalize_keys, NULL, &handle) != napi_ok) {
    empty_parts(keys, keys->parts, 1);
    free(keys);
    return NULL;
  }
  report(env, keys);
  return handle;
}

static fdb_keys *keys_of(const fdb_call *call) {
  void *data = NULL;
  if (napi_get_value_external(call->env, call->argv[0], &data) == napi_ok && data != NULL) {
    fdb_keys *keys = data;
    if (keys->magic == MAGIC && keys->self == call->self) return keys;
  }
  fdb_throw_type(call->env, "the first argument must be an index of keys of this thread");
  return NULL;
}

typedef struct text {
  uint8_t *data, near[SHORT];
  uint32_t length;
  bool whole; /* false: it has half a surrogate pair, which no key has */
} text;

static void drop_text(text *of) {
  if (of->data != of->near) free(of->data);
}

/* U+FFFD in UTF-8: a key may have it, but it also replaces half a surrogate pair. */
static bool has_replacement(const uint8_t *data, size_t length) {
  return memmem(data, length, "\xef\xbf\xbd", 3) != NULL;
}

static bool has_half_pair(const char16_t *units, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (units[i] < 0xd800 || units[i] > 0xdfff) continue;
    bool pair = units[i] < 0xdc00 && i + 1 < length && units[i + 1] >= 0xdc00 && units[i + 1] <= 0xdfff;
    if (!pair) return true;
    i++;
  }
  return false;
}

/* Reads the second argument. If it returns false an exception is pending; else call drop_text(). */
static bool text_of(const fdb_call *call, text *into) {
  napi_env env = call->env;
  napi_value value = call->argv[1];
  size_t length, room = SHORT;
  into->data = into->near;
  into->whole = true;
  if (napi_get_value_string_utf8(env, value, (char *)into->near, room, &length) != napi_ok) {
    fdb_throw_type(env, "the key must be a string");
    return false;
  }
  if (length + 4 >= room) {
    /* The text may have been cut. */
    if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) return false;
    room = length + 1;
    if (room > UINT32_MAX || (into->data = malloc(room)) == NULL) {
      fdb_throw(env, ENOMEM, "malloc");
      return false;
    }
    if (napi_get_value_string_utf8(env, value, (char *)into->data, room, &length) != napi_ok) {
      drop_text(into);
      return false;
    }
  }
  into->length = (uint32_t)length;
  if (!has_replacement(into->data, length)) return true;
  size_t units;
  char16_t *wide = malloc((length + 1) * sizeof(*wide));
  if (wide == NULL || napi_get_value_string_utf16(env, value, wide, length + 1, &units) != napi_ok) {
    if (wide == NULL) fdb_throw(env, ENOMEM, "malloc");
    free(wide);
    drop_text(into);
    return false;
  }
  into->whole = !has_half_pair(wide, units);
  free(wide);
  return true;
}

static napi_value value_of(napi_env env, uint32_t value) {
  napi_value result = NULL;
  if (value == NONE) return fdb_undefined(env);
  if (value == NULL_VALUE) return fdb_null(env);
  napi_create_uint32(env, value, &result);
  return result;
}

/* Arguments (keys, text): returns the key's value, or undefined. */
napi_value fdb_get_key(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  text key;
  if (!fdb_enter(env, info, 2, &call) || (keys = keys_of(&call)) == NULL || !text_of(&call, &key)) return NULL;
  uint64_t hash = hash_of(call.self->key_seed, key.data, key.length);
  uint32_t value = key.whole ? get(keys, hash, key.data, key.length) : NONE;
  drop_text(&key);
  return value_of(env, value);
}

/* Arguments (keys, text, value): returns the value before, or undefined. */
napi_value fdb_set_key(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  text key;
  double number = NULL_VALUE;
  uint32_t before = NONE;
  if (!fdb_enter(env, info, 3, &call) || (keys = keys_of(&call)) == NULL ||
      (!fdb_is_nullish(env, call.argv[2]) && !fdb_integer(env, call.argv[2], "value", 0, NULL_VALUE - 1, &number)) ||
      !text_of(&call, &key))
    return NULL;
  uint64_t hash = hash_of(call.self->key_seed, key.data, key.length);
  bool done = key.whole && set(keys, hash, key.data, key.length, (uint32_t)number, &before), whole = key.whole;
  drop_text(&key);
  if (!whole) return fdb_throw_type(env, "the key has half a surrogate pair");
  if (!done) return fdb_throw(env, ENOMEM, "malloc");
  report(env, keys);
  return value_of(env, before);
}

/* Arguments (keys, text): returns whether the key was there. */
napi_value fdb_delete_key(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  text key;
  if (!fdb_enter(env, info, 2, &call) || (keys = keys_of(&call)) == NULL || !text_of(&call, &key)) return NULL;
  uint64_t hash = hash_of(call.self->key_seed, key.data, key.length);
  bool done = key.whole && delete(keys, hash, key.data, key.length);
  drop_text(&key);
  return fdb_bool_value(env, done);
}

/* Arguments (keys, buffer, fields, first, count, values, before): those of set_keys(), and the first six for find_keys(). */
typedef struct many {
  fdb_bytes buffer;
  fdb_words fields, values, before;
  uint32_t first, count;
} many;

static bool many_of(const fdb_call *call, bool with_before, many *into) {
  napi_env env = call->env;
  int first, count;
  if (!fdb_int(env, call->argv[3], "first", 0, 1 << 24, &first) ||
      !fdb_int(env, call->argv[4], "count", 0, MOST_AT_ONCE, &count) ||
      !fdb_view(env, call->argv[1], "buffer", &into->buffer) ||
      !fdb_words_of(env, call->argv[2], "fields", &into->fields) ||
      !fdb_words_of(env, call->argv[5], "values", &into->values) ||
      (with_before && !fdb_words_of(env, call->argv[6], "before", &into->before)))
    return false;
  into->first = (uint32_t)first;
  into->count = (uint32_t)count;
  size_t most = into->values.count;
  if (with_before && into->before.count < most) most = into->before.count;
  if (into->fields.count / FDB_CHANGE_FIELDS < (size_t)first + (size_t)count || most < (size_t)count) {
    fdb_throw_range(env, "fields, and room for the values, are needed for %d keys", count);
    return false;
  }
  for (uint32_t i = 0; i < into->count; i++) {
    const uint32_t *field = into->fields.data + (size_t)(into->first + i) * FDB_CHANGE_FIELDS;
    if (field[FDB_KEY] <= field[FDB_KEY_END] && field[FDB_KEY_END] <= into->buffer.length) continue;
    fdb_throw_range(env, "key %u exceeds the buffer of %zu bytes", into->first + i, into->buffer.length);
    return false;
  }
  return true;
}

typedef struct key_bytes {
  const uint8_t *data;
  uint32_t length;
} key_bytes;

static key_bytes key_at(const many *all, uint32_t i) {
  const uint32_t *field = all->fields.data + (size_t)(all->first + i) * FDB_CHANGE_FIELDS;
  return (key_bytes){ all->buffer.data + field[FDB_KEY], field[FDB_KEY_END] - field[FDB_KEY] };
}

/* Computes the hashes of some keys, and fetches their positions in the index, which are far apart, at the same time. */
static void look_ahead(const fdb_keys *keys, const many *all, uint32_t from, uint32_t to, uint64_t hashes[AHEAD]) {
  for (uint32_t i = from; i < to; i++) {
    key_bytes key = key_at(all, i);
    uint64_t hash = hash_of(keys->self->key_seed, key.data, key.length);
    const part *in = part_of(keys, hash);
    if (in->room > 0) __builtin_prefetch(&in->index[hash & (2 * in->room - 1)]);
    hashes[i - from] = hash;
  }
}

/* Sets the keys of `count` changes in their order to `values`, and `before` to the values before. Returns how many: fewer if there is not enough memory
   for the next one; throws if there is not enough for the first. */
napi_value fdb_set_keys(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  many all;
  uint64_t hashes[AHEAD];
  uint32_t done = 0;
  if (!fdb_enter(env, info, 7, &call) || (keys = keys_of(&call)) == NULL || !many_of(&call, true, &all)) return NULL;
  for (bool room = true; room && done < all.count;) {
    uint32_t to = done + AHEAD < all.count ? done + AHEAD : all.count, from = done;
    look_ahead(keys, &all, from, to, hashes);
    for (; done < to; done++) {
      key_bytes key = key_at(&all, done);
      uint32_t value = all.values.data[done];
      if (value == NONE || !set(keys, hashes[done - from], key.data, key.length, value, &all.before.data[done])) {
        room = false;
        break;
      }
    }
  }
  if (done == 0 && all.count > 0) {
    if (all.values.data[0] == NONE) return fdb_throw_range(env, "a value must be below %u", NONE);
    return fdb_throw(env, ENOMEM, "malloc");
  }
  report(env, keys);
  return fdb_int_value(env, done);
}

/* Writes the values of the keys of `count` changes to `values`; 2^32 - 1 for a key that is not there. */
napi_value fdb_find_keys(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  many all;
  uint64_t hashes[AHEAD];
  if (!fdb_enter(env, info, 6, &call) || (keys = keys_of(&call)) == NULL || !many_of(&call, false, &all)) return NULL;
  for (uint32_t from = 0, to; from < all.count; from = to) {
    to = from + AHEAD < all.count ? from + AHEAD : all.count;
    look_ahead(keys, &all, from, to, hashes);
    for (uint32_t i = from; i < to; i++) {
      key_bytes key = key_at(&all, i);
      all.values.data[i] = get(keys, hashes[i - from], key.data, key.length);
    }
  }
  return fdb_undefined(env);
}

static napi_value words_with(napi_env env, size_t count, uint32_t **data) {
  napi_value memory, words;
  void *pointer;
  if (napi_create_arraybuffer(env, count * sizeof(**data), &pointer, &memory) != napi_ok ||
      napi_create_typedarray(env, napi_uint32_array, count, memory, 0, &words) != napi_ok)
    return NULL;
  *data = pointer;
  return words;
}

/* Arguments (keys, part): returns the keys of one part in insertion order: [value and end of each, bytes]. */
napi_value fdb_keys_in(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_keys *keys;
  int number;
  uint32_t *words;
  void *bytes;
  napi_value both, values, buffer;
  if (!fdb_enter(env, info, 2, &call) || (keys = keys_of(&call)) == NULL ||
      !fdb_int(env, call.argv[1], "part", 0, PARTS - 1, &number))
    return NULL;
  static const part nothing;
  const part *in = (uint32_t)number < keys->part_count ? &keys->parts[number] : &nothing;
  if ((values = words_with(env, 2 * (size_t)in->live, &words)) == NULL ||
      napi_create_buffer(env, in->live_bytes, &bytes, &buffer) != napi_ok ||
      napi_create_array_with_length(env, 2, &both) != napi_ok || napi_set_element(env, both, 0, values) != napi_ok ||
      napi_set_element(env, both, 1, buffer) != napi_ok)
    return NULL;
  uint32_t copied = 0, end = 0;
  for (uint32_t place = 0, start = 0; place < in->count; start = in->entries[place++].end) {
    const entry *one = &in->entries[place];
    if (one->value == NONE) continue;
    uint32_t length = one->end - start;
    if (length > 0) memcpy((uint8_t *)bytes + end, in->bytes + start, length);
    end += length;
    words[copied++] = one->value;
    words[copied++] = end;
  }
  return both;
}
