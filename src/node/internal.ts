/** The major versions of Node on which the tests of fd-broker test all internals. */
const OLDEST_TESTED = 20
const NEWEST_TESTED = 26
const TESTED = `Node ${OLDEST_TESTED} to ${NEWEST_TESTED}`

/** Reports whether fd-broker was tested on this major version of Node. */
export function isTested(node = process.versions.node): boolean {
  const major = Number.parseInt(node, 10)
  return major >= OLDEST_TESTED && major <= NEWEST_TESTED
}

/** An undocumented property or method of Node. */
export interface Internal {
  /** The name, for example `socket._handle.fd`. */
  readonly name: string
  /** The behaviour of this process without the internal. */
  readonly without: string
  /** Whether the internal behaves as expected on this Node. Tested once, at the first read. */
  readonly works: boolean
  /**
   * Like {@link works}, but true without a test on Node 20 to 26 until {@link works} is read. A process that starts reads this one: the tests take
   * milliseconds, and make objects of so many classes that V8 compiles Node's EventEmitter for any class, which costs a small HTTP server 3 % of
   * the CPU time of each request (Node 20).
   */
  readonly assumed: boolean
  /** Calls `notify` if the internal does not work: at once, or after the test. An `owner` that calls this twice is notified once. */
  whenMissing(owner: object, notify: () => void): void
}

/** `attempt` returns whether the internal behaves as expected, or throws if it does not. */
export function internal(name: string, without: string, attempt: () => boolean): Internal {
  let known: boolean | undefined
  const waiting = new Map<object, () => void>()
  const record = (works: boolean) => {
    known = works
    if (!works) for (const notify of waiting.values()) notify()
    waiting.clear()
    return works
  }
  const test = () => {
    if (known !== undefined) return known
    try {
      return record(attempt())
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // This process has reached its limit of open files: assume that the internal works, and test it again at the next read.
      return code === 'EMFILE' || code === 'ENFILE' || record(false)
    }
  }
  return {
    name,
    without,
    get works() {
      return test()
    },
    get assumed() {
      return known ?? (isTested() || test())
    },
    whenMissing(owner, notify) {
      if (known === undefined) waiting.set(owner, notify)
      else if (!known) notify()
    },
  }
}

/** Returns a message that says what this Node lacks, the consequence and the remedy. */
export function describeMissing({ name, without }: Internal): string {
  return `Node ${process.versions.node} has no ${name} like ${TESTED}: ${without}; use one of these versions, or a release of fd-broker that supports this one`
}
