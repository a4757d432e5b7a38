/* A failed system call becomes an Error with code, errno and syscall; a bad argument a TypeError or RangeError. */
#include "fdb.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

void fdb_error_name(int error, char *into, size_t size) {
  /* libuv has no name for these errors */
#ifdef ETOOMANYREFS
  if (error == ETOOMANYREFS) {
    snprintf(into, size, "ETOOMANYREFS");
    return;
  }
#endif
  if (error == ENOEXEC) snprintf(into, size, "ENOEXEC");
  else uv_err_name_r(-error, into, size);
}

napi_value fdb_error(napi_env env, int error, const char *syscall) {
  char name[64], text[128], message[256];
  fdb_error_name(error, name, sizeof(name));
  uv_strerror_r(-error, text, sizeof(text));
#ifdef ETOOMANYREFS
  if (error == ETOOMANYREFS) snprintf(text, sizeof(text), "too many descriptors of this user are in flight");
#endif
  if (error == ENOEXEC) snprintf(text, sizeof(text), "exec format error");
  snprintf(message, sizeof(message), "%s %s: %s", syscall, name, text);
  napi_value result = NULL, code, words, number, call;
  if (napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &code) != napi_ok ||
      napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &words) != napi_ok ||
      napi_create_string_utf8(env, syscall, NAPI_AUTO_LENGTH, &call) != napi_ok ||
      napi_create_int32(env, error, &number) != napi_ok ||
      napi_create_error(env, code, words, &result) != napi_ok ||
      napi_set_named_property(env, result, "errno", number) != napi_ok ||
      napi_set_named_property(env, result, "syscall", call) != napi_ok)
    return NULL;
  return result;
}

napi_value fdb_throw(napi_env env, int error, const char *syscall) {
  napi_value value = fdb_error(env, error, syscall);
  if (value != NULL) napi_throw(env, value);
  return NULL;
}

napi_value fdb_throw_type(napi_env env, const char *format, ...) {
  char text[256];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", text);
  return NULL;
}

napi_value fdb_throw_range(napi_env env, const char *format, ...) {
  char text[256];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  napi_throw_range_error(env, "ERR_OUT_OF_RANGE", text);
  return NULL;
}
