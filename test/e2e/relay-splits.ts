/** One byte at a time. */
export const ONES: Iterable<number> = {
  *[Symbol.iterator]() {
    for (;;) yield 1
  },
}

/** Seeded sizes of pieces: mostly small ones. */
export function* randomSizes(seed: number): Generator<number> {
  let state = seed
  for (;;) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    const pick = (state >>> 16) % 100
    yield pick < 40 ? 1 : pick < 80 ? 1 + (pick % 17) : pick * 7
  }
}
