/* Reads arguments of calls from JavaScript, checks every type and range, and creates results. */
#include "fdb.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fdb_enter(napi_env env, napi_callback_info info, size_t wanted, fdb_call *call) {
  void *data = NULL;
  call->env = env;
  call->argc = FDB_MAX_ARGS;
  if (napi_get_cb_info(env, info, &call->argc, call->argv, NULL, &data) != napi_ok) return false;
  call->self = data;
  if (call->argc < wanted) {
    fdb_throw_type(env, "%zu arguments are needed, got %zu", wanted, call->argc);
    return false;
  }
  return true;
}

bool fdb_integer(napi_env env, napi_value value, const char *name, double min, double max, double *into) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) {
    fdb_throw_type(env, "%s must be a number", name);
    return false;
  }
  /* A cast instead of floor(), which would be a function call. The range of every caller fits into an int64_t. */
  if (!(number >= min && number <= max) || (double)(int64_t)number != number) {
    fdb_throw_range(env, "%s must be an integer from %.0f to %.0f, got %g", name, min, max, number);
    return false;
  }
  *into = number;
  return true;
}

bool fdb_int(napi_env env, napi_value value, const char *name, int min, int max, int *into) {
  double number;
  if (!fdb_integer(env, value, name, min, max, &number)) return false;
  *into = (int)number;
  return true;
}

bool fdb_fd(napi_env env, napi_value value, const char *name, int *into) {
  return fdb_int(env, value, name, 0, INT_MAX, into);
}

bool fdb_bool(napi_env env, napi_value value, const char *name, bool *into) {
  if (napi_get_value_bool(env, value, into) == napi_ok) return true;
  fdb_throw_type(env, "%s must be a boolean", name);
  return false;
}

bool fdb_is_nullish(napi_env env, napi_value value) {
  napi_valuetype type;
  return napi_typeof(env, value, &type) == napi_ok && (type == napi_undefined || type == napi_null);
}

bool fdb_text(napi_env env, napi_value value, const char *name, char *into, size_t size, size_t *length) {
  size_t real, copied;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &real) != napi_ok) {
    fdb_throw_type(env, "%s must be a string", name);
    return false;
  }
  if (napi_get_value_string_utf8(env, value, into, size, &copied) != napi_ok) return false;
  *length = real;
  return true;
}

bool fdb_copy_fds(fdb_instance *self, napi_value array, uint32_t from, int *into, uint32_t *count) {
  napi_env env = self->env;
  napi_value argv[3], result;
  int32_t copied;
  argv[1] = array;
  if (napi_get_reference_value(env, self->scratch, &argv[0]) != napi_ok ||
      napi_create_uint32(env, from, &argv[2]) != napi_ok || (result = fdb_make(self, COPY_FDS, 3, argv)) == NULL ||
      napi_get_value_int32(env, result, &copied) != napi_ok)
    return false;
  if (copied < 0) {
    fdb_throw_range(env, "element %" PRIu32 " of fds is no descriptor: integers from 0 to %d are",
                    from + (uint32_t)(-1 - copied), INT_MAX);
    return false;
  }
  *count = (uint32_t)copied;
  memcpy(into, self->scratch_fds, *count * sizeof(int));
  return true;
}

bool fdb_array_length(napi_env env, napi_value value, const char *name, uint32_t *length) {
  if (napi_get_array_length(env, value, length) == napi_ok) return true;
  fdb_throw_type(env, "%s must be an array", name);
  return false;
}

static bool typed_array(napi_env env, napi_value value, const char *name, napi_typedarray_type wanted, void **data,
                        size_t *length) {
  napi_typedarray_type type;
  if (napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted) return true;
  fdb_throw_type(env, "%s must be a %s", name, wanted == napi_uint8_array ? "Uint8Array" : "Uint32Array");
  return false;
}

bool fdb_view(napi_env env, napi_value value, const char *name, fdb_bytes *into) {
  void *data;
  if (!typed_array(env, value, name, napi_uint8_array, &data, &into->length)) return false;
  into->data = data;
  return true;
}

bool fdb_words_of(napi_env env, napi_value value, const char *name, fdb_words *into) {
  void *data;
  if (!typed_array(env, value, name, napi_uint32_array, &data, &into->count)) return false;
  into->data = data;
  return true;
}

bool fdb_strings(napi_env env, napi_value value, const char *name, char **into, size_t *length) {
  void *data;
  if (!typed_array(env, value, name, napi_uint8_array, &data, length)) return false;
  *into = data;
  if (*length > 0 && (*into)[*length - 1] != 0) {
    fdb_throw_range(env, "%s must end with a NUL", name);
    return false;
  }
  return true;
}

char **fdb_split(char *text, size_t length, size_t *count) {
  size_t found = 0;
  for (size_t i = 0; i < length; i++) found += text[i] == 0;
  char **strings = calloc(found + 1, sizeof(*strings));
  if (strings == NULL) return NULL;
  *count = 0;
  for (size_t i = 0; i < length; i += strlen(text + i) + 1) strings[(*count)++] = text + i;
  return strings;
}

bool fdb_span(const fdb_call *call, size_t index, fdb_bytes *into) {
  napi_env env = call->env;
  double offset, length;
  size_t count;
  void *data;
  if (!fdb_integer(env, call->argv[index + 1], "offset", 0, 9007199254740991.0, &offset)) return false;
  if (!fdb_integer(env, call->argv[index + 2], "length", 0, 9007199254740991.0, &length)) return false;
  if (!typed_array(env, call->argv[index], "the buffer", napi_uint8_array, &data, &count)) return false;
  if (offset > (double)count || length > (double)count - offset) {
    fdb_throw_range(env, "offset %.0f and length %.0f exceed the buffer of %zu bytes", offset, length, count);
    return false;
  }
  into->data = data == NULL ? NULL : (uint8_t *)data + (size_t)offset;
  into->length = (size_t)length;
  return true;
}

napi_value fdb_undefined(napi_env env) {
  napi_value value = NULL;
  napi_get_undefined(env, &value);
  return value;
}

napi_value fdb_null(napi_env env) {
  napi_value value = NULL;
  napi_get_null(env, &value);
  return value;
}

napi_value fdb_int_value(napi_env env, int64_t number) {
  napi_value value = NULL;
  /* V8 needs no heap object for a small integer. */
  if (number >= INT32_MIN && number <= INT32_MAX) napi_create_int32(env, (int32_t)number, &value);
  else napi_create_int64(env, number, &value);
  return value;
}

napi_value fdb_bool_value(napi_env env, bool flag) {
  napi_value value = NULL;
  napi_get_boolean(env, flag, &value);
  return value;
}

napi_value fdb_owned_value(fdb_instance *self, int fd) {
  return fdb_own(self, fd) ? fdb_int_value(self->env, fd) : NULL;
}

napi_value fdb_owned_pair(fdb_instance *self, const int pair[2]) {
  napi_value both, value;
  if (!fdb_own(self, pair[0])) {
    close(pair[1]);
    return NULL;
  }
  if (!fdb_own(self, pair[1])) {
    fdb_disown(self, pair[0]);
    close(pair[0]);
    return NULL;
  }
  if (napi_create_array_with_length(self->env, 2, &both) != napi_ok) return NULL;
  for (uint32_t i = 0; i < 2; i++)
    if (napi_create_int32(self->env, pair[i], &value) != napi_ok || napi_set_element(self->env, both, i, value) != napi_ok)
      return NULL;
  return both;
}
