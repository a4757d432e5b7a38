import type { Member } from '../index.js'
import { statusAt } from '../operator/client.js'
import { STATUS_ANSWER_MS } from '../operator/status-report.js'
import { means, shownAddress } from '../os/given-up.js'

/** While a listener is missing, the previous version is asked so often whether it still listens there. */
const LOOK_MS = 500

interface AwaitedDeps {
  readonly member: Member
  readonly control: string
  /** The addresses that this version gives up. */
  readonly without: readonly string[]
  /** Whether this version listens, or begins to listen, with the listener of this name. */
  readonly isUsed: (name: string) => boolean
  /** Whether this version has any server. */
  readonly listens: () => boolean
  /** Called with the names of the missing listeners when they have changed. */
  readonly changed: (missing: readonly string[]) => void
}

/**
 * The listeners on which the previous version listens and this version does not yet. This version must not serve before it listens on all: neither
 * silence nor time shows that a program opens no other listener, and its clients would be refused.
 */
export class AwaitedListeners {
  readonly #deps: AwaitedDeps
  /** Inodes of the listeners that the previous version has closed since it offered them. */
  #closed: ReadonlySet<string> = new Set()
  /** With null the next update reports in any case. */
  #reported: string | null = ''
  #waiting: (() => void) | null = null
  #isLooking = false

  constructor(deps: AwaitedDeps) {
    this.#deps = deps
  }

  /** The addresses as an operator can give them to `--without`. */
  get missing(): string[] {
    const { isUsed, member, without } = this.#deps
    return member.unadopted
      .filter(one => !this.#closed.has(one.inode) && !isUsed(one.name))
      .filter(one => !without.some(text => means(text, one)))
      .map(shownAddress)
  }

  /** Called when this version has opened or closed a listener. */
  update(): void {
    const { missing } = this
    const text = missing.join('\n')
    if (text !== this.#reported) this.#deps.changed(missing)
    this.#reported = text
    this.#waiting?.()
  }

  /** Resolves when this version has a server and no listener is missing. Rejects when `signal` aborts. */
  async complete(signal: AbortSignal): Promise<void> {
    const timer = setInterval(() => void this.#look(), LOOK_MS).unref()
    const aborted = () => this.#waiting?.()
    signal.addEventListener('abort', aborted)
    // The member has reported that this check runs; which listeners are missing says more.
    this.#reported = null
    this.update()
    try {
      for (;;) {
        signal.throwIfAborted()
        // The program may open more servers in the same turn.
        if (this.#isComplete) await new Promise(resolve => setTimeout(resolve, 0))
        if (this.#isComplete) return
        await new Promise<void>(resolve => {
          this.#waiting = resolve
          if (signal.aborted) resolve()
        })
      }
    } finally {
      clearInterval(timer)
      signal.removeEventListener('abort', aborted)
      this.#waiting = null
    }
  }

  get #isComplete(): boolean {
    return this.#deps.listens() && this.missing.length === 0
  }

  /** Asks the previous version which of its listeners it has closed, which that version does not say by itself. */
  async #look(): Promise<void> {
    const { control, member } = this.#deps
    const before = member.unadopted.map(({ inode }) => inode)
    if (before.length > 0 && !this.#isLooking) {
      this.#isLooking = true
      try {
        const answer = await statusAt(control, STATUS_ANSWER_MS)
        if (!('listeners' in answer) || answer.pid === process.pid) return
        const open = new Set(answer.listeners.map(({ inode }) => inode))
        this.#closed = new Set(before.filter(inode => !open.has(inode)))
      } catch {
        // The next look asks again.
      } finally {
        this.#isLooking = false
      }
    }
    // The wait may have ended meanwhile.
    if (this.#waiting !== null) this.update()
  }
}
