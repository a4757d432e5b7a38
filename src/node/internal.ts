/** The versions on which all of this was tried. */
const KNOWN = 'Node 20 to 26'

/** Something inside of Node that has no public name, and is as it was on the versions that are known. */
export interface Internal {
  /** For example `socket._handle.fd`. */
  readonly name: string
  /** The behaviour of this process without it. */
  readonly without: string
  /** It is as expected on this Node. Tried once, at the first question. */
  readonly works: boolean
  /** Calls `tell`, once for each `who`, if it is not: now or when it is tried. */
  whenMissing(who: object, tell: () => void): void
}

/** `attempt` says whether it is as expected; when it throws it is not, unless there was no descriptor to try it with. */
export function internal(name: string, without: string, attempt: () => boolean): Internal {
  let known: boolean | undefined
  const waiting = new Map<object, () => void>()
  const found = (works: boolean) => {
    known = works
    if (!works) for (const tell of waiting.values()) tell()
    waiting.clear()
    return works
  }
  return {
    name,
    without,
    get works() {
      if (known !== undefined) return known
      try {
        return found(attempt())
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        // Asked again when there is room.
        return code === 'EMFILE' || code === 'ENFILE' || found(false)
      }
    },
    whenMissing(who, tell) {
      if (known === undefined) waiting.set(who, tell)
      else if (!known) tell()
    },
  }
}

/** Describes the difference, its consequence and the remedy. */
export function describeMissing({ name, without }: Internal): string {
  return `Node ${process.versions.node} has no ${name} as ${KNOWN} have: ${without}; use one of these, or a release of fd-broker that knows this one`
}
