/** One small mistake that a maintainer could make, with the tests that must notice it. */
export interface Seed {
  readonly room: string
  /** Path of the source in the project. */
  readonly file: string
  /** The source has this text once. */
  readonly find: string
  /** The text of the mistake. */
  readonly put: string
  /** Test files that must notice it; a few seconds each. */
  readonly tests: readonly string[]
}

/** File below `src`, or of `native`; what stands there; what the mistake puts there; tests, where the room's are not meant. */
export type Told = readonly [file: string, find: string, put: string, ...tests: string[]]

/** The seeds of one room. `tests`: of all seeds that name none; below `test`, without `.test.ts`. */
export function room(name: string, tests: readonly string[], seeds: readonly Told[]): readonly Seed[] {
  return seeds.map(([file, find, put, ...own]) => ({
    room: name,
    file: file.endsWith('.c') ? `native/${file}` : `src/${file}`,
    find,
    put,
    tests: (own.length > 0 ? own : tests).map(test => `test/${test}.test.ts`),
  }))
}
