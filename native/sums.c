/* Sums the SHA-256 hashes of many state entries in one call: one call for each entry would take longer than its hash. */
#include "fdb.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define FDB_SHA_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

#define BLOCK 64
#define WORDS 8
#define RANGES 4 /* numbers for each entry: start and end of its key, then of its value */

static const uint32_t rounds[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static const uint32_t beginning[WORDS] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static uint32_t turned(uint32_t word, int by) { return word >> by | word << (32 - by); }

static uint32_t big_endian(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void plain_blocks(uint32_t state[WORDS], const uint8_t *data, size_t count) {
  uint32_t w[64];
  for (; count > 0; count--, data += BLOCK) {
    for (int i = 0; i < 16; i++) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 64; i++) {
      uint32_t s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
      uint32_t s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
      uint32_t t1 = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + rounds[i] + w[i];
      uint32_t t2 = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

#ifdef FDB_SHA_X86
__attribute__((target("sha,sse4.1"))) static void x86_blocks(uint32_t state[WORDS], const uint8_t *data, size_t count) {
  const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
  __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
  __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0), w[4];
  for (; count > 0; count--, data += BLOCK) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    for (int i = 0; i < 4; i++)
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), order);
    for (int i = 0; i < 16; i++) {
      __m128i four = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)(rounds + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, four);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(four, 0x0e));
      if (i >= 12) continue;
      const __m128i last = w[(i + 3) & 3], between = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);
      const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), between);
      w[i & 3] = _mm_sha256msg2_epu32(sum, last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  low = _mm_shuffle_epi32(abef, 0x1b);
  high = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
  _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}
#endif

/* Call it once, because CPUID takes microseconds in a virtual machine. */
fdb_blocks fdb_fastest_blocks(void) {
#ifdef FDB_SHA_X86
  unsigned a, b, c, d;
  bool sse = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
  if (sse && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29)) return x86_blocks;
#endif
  return plain_blocks;
}

/* An unfinished hash, with the bytes of the last, incomplete block. */
typedef struct hash {
  fdb_blocks blocks;
  uint32_t state[WORDS];
  uint8_t rest[2 * BLOCK];
  size_t filled, length;
} hash;

static void take(hash *self, const uint8_t *data, size_t length) {
  if (length == 0) return;
  self->length += length;
  if (self->filled > 0) {
    size_t some = length < BLOCK - self->filled ? length : BLOCK - self->filled;
    memcpy(self->rest + self->filled, data, some);
    self->filled += some, data += some, length -= some;
    if (self->filled < BLOCK) return;
    self->blocks(self->state, self->rest, 1);
    self->filled = 0;
  }
  if (length >= BLOCK) self->blocks(self->state, data, length / BLOCK);
  self->filled = length % BLOCK;
  if (self->filled > 0) memcpy(self->rest, data + length - self->filled, self->filled);
}

static void finish(hash *self) {
  size_t size = self->filled + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
  memset(self->rest + self->filled, 0, size - self->filled);
  self->rest[self->filled] = 0x80;
  uint64_t bits = (uint64_t)self->length * 8;
  for (int i = 1; i <= 8; i++, bits >>= 8) self->rest[size - (size_t)i] = (uint8_t)bits;
  self->blocks(self->state, self->rest, size / BLOCK);
}

static void put_length(uint8_t *into, size_t length) {
  for (int i = 0; i < 4; i++) into[i] = (uint8_t)(length >> 8 * i);
}

/* Arguments (lanes, section, buffer, ranges, count, stride): see Digest in src/state/digest.ts. Releases up to 0.4.0 give no stride. */
napi_value fdb_add_sums(napi_env env, napi_callback_info info) {
  fdb_call call;
  fdb_words lanes, ranges;
  fdb_bytes section, buffer;
  int count, stride = RANGES;
  if (!fdb_enter(env, info, 5, &call) || !fdb_int(env, call.argv[4], "count", 0, 1 << 24, &count) ||
      (call.argc > 5 && !fdb_int(env, call.argv[5], "stride", RANGES, 64, &stride)) ||
      !fdb_words_of(env, call.argv[0], "lanes", &lanes) || !fdb_view(env, call.argv[1], "section", &section) ||
      !fdb_view(env, call.argv[2], "buffer", &buffer) || !fdb_words_of(env, call.argv[3], "ranges", &ranges))
    return NULL;
  if (lanes.count != WORDS || (count > 0 && ranges.count < (size_t)(count - 1) * (size_t)stride + RANGES))
    return fdb_throw_range(env, "%d lanes are needed, and ranges for %d entries", WORDS, count);
  for (int i = 0; i < count; i++) {
    const uint32_t *range = ranges.data + (size_t)i * (size_t)stride;
    if (range[0] > range[1] || range[1] > buffer.length || range[2] > range[3] || range[3] > buffer.length)
      return fdb_throw_range(env, "the ranges of entry %d exceed the buffer of %zu bytes", i, buffer.length);
  }
  for (int i = 0; i < count; i++) {
    const uint32_t *range = ranges.data + (size_t)i * (size_t)stride;
    hash one = {.blocks = call.self->blocks};
    uint8_t lengths[12];
    memcpy(one.state, beginning, sizeof beginning);
    put_length(lengths, section.length);
    put_length(lengths + 4, range[1] - range[0]);
    put_length(lengths + 8, range[3] - range[2]);
    take(&one, lengths, sizeof lengths);
    take(&one, section.data, section.length);
    take(&one, buffer.data + range[0], range[1] - range[0]);
    take(&one, buffer.data + range[2], range[3] - range[2]);
    finish(&one);
    /* The words of the hash are big-endian, but the lanes are defined as little-endian. */
    for (int lane = 0; lane < WORDS; lane++) lanes.data[lane] += __builtin_bswap32(one.state[lane]);
  }
  return fdb_undefined(env);
}
