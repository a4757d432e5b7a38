/* The descriptors that an environment owns, as a bitmap by number: adding and removing one takes constant time. */
#include "fdb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fdb_reserve(fdb_instance *self, int fd) {
  size_t word = (size_t)fd / 64;
  if (word < self->words) return true;
  size_t words = self->words == 0 ? 16 : self->words;
  while (words <= word) words *= 2;
  uint64_t *bits = realloc(self->bits, words * sizeof(*bits));
  if (bits == NULL) return false;
  memset(bits + self->words, 0, (words - self->words) * sizeof(*bits));
  self->bits = bits;
  self->words = words;
  return true;
}

bool fdb_owns(const fdb_instance *self, int fd) {
  size_t word = (size_t)fd / 64;
  return word < self->words && (self->bits[word] & (UINT64_C(1) << (fd % 64))) != 0;
}

bool fdb_own(fdb_instance *self, int fd) {
  if (!fdb_reserve(self, fd)) {
    fdb_close_fd(fd);
    fdb_throw(self->env, ENOMEM, "realloc");
    return false;
  }
  if (!fdb_owns(self, fd)) {
    self->bits[fd / 64] |= UINT64_C(1) << (fd % 64);
    self->open++;
  }
  return true;
}

void fdb_disown(fdb_instance *self, int fd) {
  if (!fdb_owns(self, fd)) return;
  self->bits[fd / 64] &= ~(UINT64_C(1) << (fd % 64));
  self->open--;
}

void fdb_close_owned(fdb_instance *self) {
  for (size_t word = 0; word < self->words; word++) {
    for (uint64_t bits = self->bits[word]; bits != 0; bits &= bits - 1)
      close((int)(word * 64) + __builtin_ctzll(bits));
    self->bits[word] = 0;
  }
  self->open = 0;
}

int fdb_close_fd(int fd) {
  /* On Linux the descriptor is closed even after EINTR: a retry could close another one with the same number. */
  return close(fd) == 0 || errno == EINTR ? 0 : errno;
}

void fdb_drop_instance(fdb_instance *self) {
  if (--self->references > 0) return;
  free(self->bits);
  free(self);
}
