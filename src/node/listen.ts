/** Has Node load what `server.listen()` would: it asks `node:cluster` whether to listen at all, which takes 3 ms the first time. */
export function loadForListen(): void {
  process.getBuiltinModule('node:cluster')
}
