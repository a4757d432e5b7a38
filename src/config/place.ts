export type Path = readonly (string | number)[]

export interface Problem {
  /** Where, from the root of the document. */
  path: Path
  /** The key itself is wrong, not its value. */
  atKey: boolean
  message: string
}

/** `upstreams.app.servers[1]`; names that are no plain words in brackets: `upstreams["a b"]`. */
export function formatPath(path: Path): string {
  let text = ''
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`
    else if (/^[A-Za-z_][\w-]*$/.test(step)) text += text === '' ? step : `.${step}`
    else text += `[${JSON.stringify(step)}]`
  }
  return text
}

/** Collects problems; of more than `most` only the number is kept. */
export class Problems {
  readonly most: number
  readonly list: Problem[] = []
  count = 0

  constructor(most = 20) {
    this.most = most
  }

  /** Further problems are only counted: guesses for their messages need not be made. */
  get full(): boolean {
    return this.count >= this.most
  }

  add(problem: Problem): void {
    this.count++
    if (this.list.length < this.most) this.list.push(problem)
  }
}

/** A value's place in the document, where problems with it are reported. */
export class Place {
  readonly problems: Problems
  readonly #within: Place | null
  readonly #step: string | number

  constructor(problems: Problems, within: Place | null = null, step: string | number = '') {
    this.problems = problems
    this.#within = within
    this.#step = step
  }

  /** Made when it is asked for: of most places nothing is reported. */
  get path(): Path {
    return this.#within === null ? [] : [...this.#within.path, this.#step]
  }

  /** The last of {@link path}; of the root, nothing. */
  get step(): string | number {
    return this.#step
  }

  at(step: string | number): Place {
    return new Place(this.problems, this, step)
  }

  /** Always returns undefined: what a check gives for a wrong value. */
  wrong(message: string): undefined {
    this.problems.add({ path: this.path, atKey: false, message })
  }

  /** The key at this place is wrong. */
  wrongKey(message: string): undefined {
    this.problems.add({ path: this.path, atKey: true, message })
  }
}
