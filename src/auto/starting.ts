import { LONGEST_MS } from '../base/duration.js'
import type { Member } from '../index.js'
import { OperatorClient } from '../operator.js'
import { isChildOf } from './serving-version.js'

/** The command with which a starting process tells the serving one of itself. The answer comes when the process joins or ends. */
const COMMAND = 'fd-broker/auto:starts'
const CONNECT_MS = 5_000
/** A process that starts for longer (a tool that never listens) is not waited for. */
const MOST_MS = 60_000

/** The processes that start under fd-broker/auto, and the successor of an upgrade: each may become the next version when it listens. */
export class StartingProcesses {
  readonly #member: Member
  /** Until when each is waited for (performance.now()). */
  readonly #until = new Map<AbortSignal, number>()
  #changed: () => void = () => {}

  constructor(member: Member) {
    this.#member = member
    member.command(COMMAND, (_body, { signal }) => this.#add(signal))
  }

  #add(signal: AbortSignal): Promise<string> {
    this.#until.set(signal, performance.now() + MOST_MS)
    return new Promise(resolve =>
      signal.addEventListener('abort', () => {
        this.#until.delete(signal)
        this.#changed()
        resolve('')
      }),
    )
  }

  get any(): boolean {
    const now = performance.now()
    return this.#member.isUpgraded || [...this.#until.values()].some(until => until > now)
  }

  /** Resolves when no process starts, at the latest after `ms`. */
  async settled(ms: number): Promise<void> {
    const latest = performance.now() + ms
    // A successor tells of itself only when Node has started it.
    await this.#member.upgradeOver(ms)
    for (;;) {
      const left = Math.min(latest, Math.max(0, ...this.#until.values())) - performance.now()
      if (left <= 0) return
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, left)
        this.#changed = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
}

/**
 * Tells the serving process that this one starts, until the returned function is called. Returns null if this
 * process is a child of the serving one. Does not keep the process alive. Never rejects.
 */
export async function announceStart(
  control: string,
  starters: ReadonlySet<number>,
): Promise<(() => void) | null> {
  try {
    const client = await OperatorClient.connect(control, { timeout: CONNECT_MS })
    client.unref()
    if (isChildOf(client.peerPid, starters)) {
      client.close()
      return null
    }
    // A version without this command need not know of this process.
    client.command(COMMAND, '', { timeout: LONGEST_MS }).catch(() => {})
    return () => client.close()
  } catch {
    return () => {}
  }
}
