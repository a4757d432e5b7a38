/*
 * Compares the index of native/keys.c with arrays, in random sequences of set, get and delete, on keys of which many have the same 32 bits of the hash that an
 * entry stores. The addon's seed is random, so only a program that includes the file can find such keys. Arguments: seed, number of calls.
 */
#include "../../../native/keys.c"

#include <stdio.h>

#define CANDIDATES (1u << 21)
#define MOST_PAIRS 400
/* A call sets a key with probability 2/3, so the calls of the second half leave some 21,000 keys: more than ALONE for any seed. */
#define FILL 100000
#define ABSENT NONE

typedef struct candidate {
  uint64_t hash;
  uint32_t number;
} candidate;

static uint64_t state;

static uint32_t below(uint32_t limit) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 16) % limit;
}

/* Some keys contain bytes that are no text, and some are longer than others. */
static uint32_t key_of(uint32_t number, uint8_t into[64]) {
  uint32_t length = (uint32_t)snprintf((char *)into, 64, "%skey-%u", number % 3 == 0 ? "a long beginning of " : "", number);
  if (number % 5 == 0) into[length++] = 0;
  if (number % 7 == 0) into[length++] = 0xff;
  return length;
}

static int by_low_bits(const void *a, const void *b) {
  uint32_t x = (uint32_t)((const candidate *)a)->hash, y = (uint32_t)((const candidate *)b)->hash;
  return x < y ? -1 : x > y;
}

static void expect(bool holds, const char *what, uint32_t number) {
  if (holds) return;
  fprintf(stderr, "%s: key %u\n", what, number);
  exit(1);
}

/* Compares each key's value with the model, and counts the keys and their bytes in all parts. */
static void expect_same(const fdb_keys *keys, const uint32_t *numbers, const uint32_t *model, uint32_t count) {
  uint32_t live = 0, present = 0;
  uint64_t live_bytes = 0, bytes = 0;
  for (uint32_t i = 0; i < keys->part_count; i++) {
    live += keys->parts[i].live;
    live_bytes += keys->parts[i].live_bytes;
  }
  for (uint32_t i = 0; i < count; i++) {
    uint8_t key[64];
    uint32_t length = key_of(numbers[i], key);
    expect(get(keys, hash_of(keys->self->key_seed, key, length), key, length) == model[i], "another value", numbers[i]);
    if (model[i] == ABSENT) continue;
    present++;
    bytes += length;
  }
  expect(live == present && keys->live == present, "another count", present);
  expect(live_bytes == bytes, "another number of bytes", present);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  state = strtoull(argv[1], NULL, 10) * 2 + 1;
  uint32_t calls = (uint32_t)strtoul(argv[2], NULL, 10);
  fdb_instance self = { .key_seed = { state * UINT64_C(0x9e3779b97f4a7c15), state } };
  candidate *all = malloc(CANDIDATES * sizeof(*all));
  uint32_t *numbers = malloc((2 * MOST_PAIRS + FILL) * sizeof(*numbers)), count = 0;
  if (all == NULL || numbers == NULL) return 2;
  uint8_t key[64];
  for (uint32_t i = 0; i < CANDIDATES; i++) all[i] = (candidate){ hash_of(self.key_seed, key, key_of(i, key)), i };
  qsort(all, CANDIDATES, sizeof(*all), by_low_bits);
  for (uint32_t i = 1; i < CANDIDATES && count < 2 * MOST_PAIRS; i++) {
    if ((uint32_t)all[i].hash != (uint32_t)all[i - 1].hash) continue;
    numbers[count++] = all[i - 1].number;
    numbers[count++] = all[i++].number;
  }
  uint32_t colliding = count;
  for (uint32_t i = 0; i < FILL; i++) numbers[count++] = CANDIDATES + i;
  free(all);
  uint32_t *model = malloc(count * sizeof(*model));
  fdb_keys keys = { .magic = MAGIC, .self = &self, .part_count = 1, .most = SIZE_MAX };
  keys.parts = take(&keys, sizeof(*keys.parts));
  if (model == NULL || keys.parts == NULL) return 2;
  *keys.parts = (part){ 0 };
  memset(model, 0xff, count * sizeof(*model));
  uint32_t present = 0, parts = 1;
  for (uint32_t i = 0; i < calls; i++) {
    /* First two pairs, then all that collide, then so many others that the index is divided. */
    uint32_t some = i < calls / 16 ? 4 : i < calls / 2 || below(4) == 0 ? colliding : count;
    uint32_t at = below(some), before = ABSENT, length = key_of(numbers[at], key);
    uint64_t hash = hash_of(self.key_seed, key, length);
    if (below(3) == 0) {
      expect(delete(&keys, hash, key, length) == (model[at] != ABSENT), "deleted, or not", numbers[at]);
      if (model[at] != ABSENT) present--;
      model[at] = ABSENT;
    } else {
      expect(set(&keys, hash, key, length, i, &before), "no memory", numbers[at]);
      expect(before == model[at], "another value before", numbers[at]);
      if (model[at] == ABSENT && ++present > ALONE) parts = PARTS;
      model[at] = i;
    }
    expect(keys.part_count == parts, "divided at another number of keys", present);
    if (i < calls / 16) expect_same(&keys, numbers, model, 4);
    else if (i % (calls / 16) == 0) expect_same(&keys, numbers, model, count);
  }
  expect_same(&keys, numbers, model, count);
  printf("%u %u\n", colliding, keys.part_count);
  empty_parts(&keys, keys.parts, keys.part_count);
  expect(keys.allocated == 0, "memory is left", 0);
  free(model);
  free(numbers);
  return 0;
}
