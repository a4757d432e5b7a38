/**
 * Unique name of this process or thread. Not a secret, so that Math.random() suffices: V8 seeds it from the kernel in each thread, while
 * `node:crypto` takes 4 ms to load.
 */
export const OWN_INSTANCE = `${process.pid}-${Date.now().toString(36)}-${random()}${random()}`

function random(): string {
  return Math.random().toString(36).slice(2, 13)
}
