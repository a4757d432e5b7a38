/* JavaScript functions that create the objects which native calls return, or copy descriptors. */
#include "fdb.h"

/*
 * JavaScript makes these objects because it is faster: an object literal several times faster than one Node-API
 * call per property, a loop ten times faster than one call per element. `scratch` is the instance's Int32Array.
 */
static const char *const maker_sources[MAKER_COUNT] = {
  [COPY_FDS] = "(scratch, fds, from) => {"
               "  const count = Math.min(fds.length - from, scratch.length);"
               "  for (let i = 0; i < count; i++) {"
               "    const fd = fds[from + i];"
               "    if (fd !== (fd | 0) || fd < 0) return -1 - i;"
               "    scratch[i] = fd;"
               "  }"
               "  return count;"
               "}",
  [MAKE_RECEIVED] = "(scratch, bytes, count, truncated) => {"
                    "  if (count === 0) return { bytes, fds: null, truncated };"
                    "  const fds = new Array(count);"
                    "  for (let i = 0; i < count; i++) fds[i] = scratch[i];"
                    "  return { bytes, fds, truncated };"
                    "}",
  [MAKE_PLAIN] = "(type, dev, ino, error) => error ? { error, type, dev, ino } : { type, dev, ino }",
  [MAKE_INET] = "(type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort, address, port) =>"
                " ({ type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort, address, port })",
  [MAKE_INET6] = "(type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort, address, port,"
                 " ipv6Only) => ({ type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort,"
                 " address, port, ipv6Only })",
  [MAKE_UNIX] = "(type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort, address, abstract)"
                " => ({ type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort, address,"
                " abstract })",
  [MAKE_OTHER] = "(type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort) =>"
                 " ({ type, dev, ino, family, socketType, protocol, accepting, cookie, reuseAddr, reusePort })",
};

napi_value fdb_make(fdb_instance *self, enum fdb_maker maker, size_t argc, const napi_value *argv) {
  napi_value function, receiver, result;
  if (napi_get_reference_value(self->env, self->makers[maker], &function) != napi_ok) return NULL;
  if (napi_get_undefined(self->env, &receiver) != napi_ok) return NULL;
  if (napi_call_function(self->env, receiver, function, argc, argv, &result) != napi_ok) return NULL;
  return result;
}

bool fdb_compile_makers(fdb_instance *self) {
  for (int i = 0; i < MAKER_COUNT; i++) {
    napi_value source, function;
    if (napi_create_string_utf8(self->env, maker_sources[i], NAPI_AUTO_LENGTH, &source) != napi_ok ||
        napi_run_script(self->env, source, &function) != napi_ok ||
        napi_create_reference(self->env, function, 1, &self->makers[i]) != napi_ok)
      return false;
  }
  return true;
}
