/** The versions of Node on which all internals were tested. */
const KNOWN = 'Node 20 to 26'

/** An undocumented property or method of Node. */
export interface Internal {
  /** The name, for example `socket._handle.fd`. */
  readonly name: string
  /** The behaviour of this process without the internal. */
  readonly without: string
  /** Whether the internal behaves as expected on this Node. Tested once, at the first read. */
  readonly works: boolean
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
  return {
    name,
    without,
    get works() {
      if (known !== undefined) return known
      try {
        return record(attempt())
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        // This process has reached its limit of open files: assume that the internal works, and test it again at the next read.
        return code === 'EMFILE' || code === 'ENFILE' || record(false)
      }
    },
    whenMissing(owner, notify) {
      if (known === undefined) waiting.set(owner, notify)
      else if (!known) notify()
    },
  }
}

/** Returns a message that says what this Node lacks, the consequence and the remedy. */
export function describeMissing({ name, without }: Internal): string {
  return `Node ${process.versions.node} has no ${name} like ${KNOWN}: ${without}; use one of these versions, or a release of fd-broker that supports this one`
}
