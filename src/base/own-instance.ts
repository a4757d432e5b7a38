/** The name of this process or thread, which no other has or had; no secret. V8 seeds each thread from the kernel, and `node:crypto` takes 4 ms to load. */
export const OWN_INSTANCE = `${process.pid}-${Date.now().toString(36)}-${random()}${random()}`

function random(): string {
  return Math.random().toString(36).slice(2, 13)
}
