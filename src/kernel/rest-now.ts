const NOTHING = new Int32Array(new SharedArrayBuffer(4))

/** Holds the thread for so many milliseconds: where who is waited for is another process, and quick. */
export function restNow(ms: number): void {
  Atomics.wait(NOTHING, 0, 0, ms)
}
