/**
 * The name of this process, or of this thread of it, which no other has or had. It is no secret. V8 begins the random numbers of each thread with
 * bytes of the kernel; to load `node:crypto` for them would take 4 ms of each start.
 */
export const OWN_INSTANCE = `${process.pid}-${Date.now().toString(36)}-${random()}${random()}`

function random(): string {
  return Math.random().toString(36).slice(2, 13)
}
