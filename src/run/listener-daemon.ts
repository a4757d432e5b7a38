import { setTimeout as sleep } from 'node:timers/promises'
import { Backoff } from '../base/backoff.js'
import type { Logger } from '../base/logger.js'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { inspectOne } from '../kernel/index.js'
import { formatListenerSpec } from '../listeners/index.js'
import { OperatorClient } from '../operator/client.js'
import type { HeldDescriptor } from '../operator/held-descriptors.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { holdAgain, takeHeld } from './claimed-descriptors.js'
import type { VersionSettings } from './settings.js'
import type { SharedListener } from './shared-listeners.js'

/** Delays between attempts to reach a daemon that has ended: it is started again soon, or never. */
const RECONNECT = { firstMs: 50, longestMs: 1_000 }
/** Errors of a daemon that is ending or being upgraded: the next daemon is asked. */
const OF_NEXT: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_BUSY',
  'ERR_FDB_CHANNEL_CLOSED',
  'ERR_FDB_DEADLINE',
  'ERR_FDB_FENCED',
])
/** Errors after which each further attempt would fail. */
const FINAL: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>(['ERR_FDB_DENIED', 'ERR_FDB_NOT_A_DAEMON'])

/** Carries out `work` with a connection to the daemon, and again while the daemon is being upgraded. */
type AskDaemon = <T>(work: (client: OperatorClient) => Promise<T>) => Promise<T>
type Held = Pick<SharedListener, 'name' | 'fd'>

/** The daemon that holds a supervisor's listeners (`--from`). A daemon that was killed and started again gets them back. */
export class ListenerDaemon implements Disposable {
  readonly #control: string
  readonly #ask: AskDaemon
  readonly #logger: Logger
  readonly #closed = new AbortController()
  /** Inodes of listeners that an operator has removed from the daemon: the next daemon does not get them. */
  readonly #removed = new Set<string>()

  constructor(control: string, ask: AskDaemon, logger: Logger) {
    this.#control = control
    this.#ask = ask
    this.#logger = logger
  }

  /**
   * Claims the listeners that a version wants and that are not among `held`, and offers them to {@link passedSockets}. Without `held`, for
   * the first version, asks the daemon in any case. Rejects as {@link takeHeld} does, and with the errors of a connection.
   */
  async take(
    { listen, nonBlocking }: Pick<VersionSettings, 'listen' | 'nonBlocking'>,
    held: readonly Pick<SharedListener, 'key'>[] | null = null,
  ): Promise<void> {
    const known = new Set(held?.map(({ key }) => key))
    const missing = listen.filter(
      ({ name, spec }) => !known.has(formatListenerSpec(spec)) && !passedSockets().has(name, spec),
    )
    if (missing.length === 0 && held !== null) return
    const taken = await this.#ask(client => takeHeld(client, { listen: missing, nonBlocking }))
    for (const listener of taken)
      this.#logger.info({ ...listener, daemon: this.#control }, 'a daemon holds a listener')
  }

  /** Inodes for the supervisor's next image, which keeps the sockets. */
  get removed(): string[] {
    return [...this.#removed]
  }

  /**
   * From now on gives the listeners back to each daemon that does not hold them. `held` returns them, borrowed. `removed`: see {@link removed} of the previous
   * image.
   */
  keep(held: () => readonly Held[], removed: readonly string[]): void {
    for (const inode of removed) this.#removed.add(inode)
    void this.#keep(held)
  }

  [Symbol.dispose](): void {
    this.#closed.abort()
  }

  async #keep(held: () => readonly Held[]): Promise<void> {
    const { signal } = this.#closed
    const backoff = new Backoff(RECONNECT)
    while (!signal.aborted) {
      try {
        using client = await OperatorClient.connect(this.#control, { signal })
        client.unref()
        await this.#giveBack(client, held())
        const seen = new Set<string>()
        for await (const list of client.descriptors.watch({ signal })) {
          backoff.reset()
          this.#noteRemoved(list, held(), seen)
        }
      } catch (error) {
        if (signal.aborted) return
        const facts = { err: error, daemon: this.#control }
        if (FINAL.has(FdbError.from(error).code)) {
          this.#logger.warn(
            facts,
            'a daemon that is killed and started again will not hold the listeners: allow this process to list them',
          )
          return
        }
        this.#logger.debug(facts, 'the daemon that holds the listeners cannot be reached')
      }
      await sleep(backoff.next(), undefined, { ref: false, signal }).catch(() => {})
    }
  }

  async #giveBack(client: OperatorClient, held: readonly Held[]): Promise<void> {
    for (const { name, fd } of held) {
      if (this.#removed.has(inspectOne(fd).ino)) continue
      const facts = { listener: name, daemon: this.#control }
      try {
        if (await holdAgain(client, name, fd))
          this.#logger.info(facts, 'the daemon has got a listener that it did not hold')
      } catch (error) {
        if (OF_NEXT.has(FdbError.from(error).code)) throw error
        this.#logger.warn({ ...facts, err: error }, 'the daemon does not hold a listener')
      }
    }
  }

  /** `seen`: inodes of listeners that the daemon of this connection has held. */
  #noteRemoved(list: readonly HeldDescriptor[], held: readonly Held[], seen: Set<string>): void {
    const there = new Set(list.map(({ inode }) => inode))
    for (const { name, fd } of held) {
      const { ino } = inspectOne(fd)
      if (there.has(ino)) {
        seen.add(ino)
        this.#removed.delete(ino)
      } else if (seen.delete(ino)) {
        this.#removed.add(ino)
        this.#logger.info({ listener: name, daemon: this.#control }, 'the daemon holds a listener no longer')
      }
    }
  }
}
