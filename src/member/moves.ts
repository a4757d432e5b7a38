import { LONGEST_MS } from '../base/duration.js'
import { MoveCounts } from '../connections/counts.js'
import { GIVE } from '../connections/migration-channel.js'
import type { MovableConnections } from '../connections/movable.js'
import { MoveLog } from '../connections/move-log.js'
import { movableOf, type Source } from '../connections/move-slice.js'
import { ConnectionReceiver } from '../connections/receiver.js'
import { ConnectionSender } from '../connections/sender.js'
import { closeAll, type OwnedFd, peerPidfd } from '../kernel/index.js'
import { keyOf } from '../os/liveness.js'
import { fateOf } from '../os/process-identity.js'
import type { BundleItem } from '../wire/bundle.js'
import { Channel } from '../wire/channel.js'
import { Link } from '../wire/link.js'
import type { Listener } from './listener.js'
import type { Settings } from './options.js'

const ASK_MS = 250
/**
 * Peers are told to go when no receiver has come for this long. Connections may still move later. A pause between two questions counts with
 * its intended length only: if this process, or its machine, stood still, a receiver may be about to come.
 */
const PATIENCE_MS = 2_000
/** After the end of one way another is asked for so soon. */
const AGAIN_MS = 10
/** Where nothing went on it, after so long: the next will hardly do better, and each holds connections up for a moment. */
const IN_VAIN_MS = 1_000

/**
 * The moves of this process's connections: while it does not serve it gives them to the process that does, and while it serves it takes
 * those of all older generations. Connections that cannot move are told to go, and drain.
 */
export class Moves {
  readonly counts = new MoveCounts()
  readonly #settings: Settings
  readonly #listeners: () => Iterable<Listener>
  /** Asks the holder for a migration channel to the process that serves. */
  readonly #ask: () => void
  readonly #takers = new Set<ConnectionReceiver>()
  #sender: ConnectionSender | null = null
  /** Processes that took connections since shutdown, with their earlier counts. Owned. */
  #went: { receiver: OwnedFd; before: number }[] = []
  /** Processes that ended, or went to another, when they had no connection left. */
  readonly #emptied = new Set<string>()
  #leaving = false
  /** Has shown that it serves what it takes. */
  #proved: string | null = null
  /** Since when, and how many had moved before; null when it has been told that all have gone. */
  #since: { at: number; moved: number } | null = null
  #told = false
  /** When what has not left by then is closed. */
  #cutAt = 0
  /** Milliseconds of {@link PATIENCE_MS}. */
  #waited = 0
  #pause = { since: 0, ms: 0 }
  #timer: NodeJS.Timeout | undefined
  /** Connections that are still here by then are told to go, so that the end of the drain cuts none that could have been told. */
  #halfTime: NodeJS.Timeout | undefined

  constructor(parts: { settings: Settings; listeners: () => Iterable<Listener>; ask: () => void }) {
    this.#settings = parts.settings
    this.#listeners = parts.listeners
    this.#ask = parts.ask
  }

  /** This process does not serve any more. `receiver`: another does, and may take what can move. Idempotent. */
  leave(receiver: boolean): void {
    const { drainTimeout, move } = this.#settings
    for (const each of this.#takers) void each.stop()
    if (!receiver || move === 'off') {
      this.#leaving = false
      this.#report()
      return
    }
    for (const listener of this.#listeners()) listener.announceFixed()
    if (this.#leaving) return
    this.#leaving = true
    this.#proved = null
    this.#since = { at: performance.now(), moved: this.counts.moved }
    this.#waited = 0
    this.#pause = { since: 0, ms: 0 }
    this.#cutAt = performance.now() + drainTimeout
    this.#halfTime = setTimeout(() => this.#report(), Math.min(drainTimeout / 2, LONGEST_MS))
    this.#halfTime.unref()
    this.#seek()
  }

  /** This process serves (again): connections in flight come back. Those that a dead receiver has are lost. */
  serve(): void {
    this.#leaving = false
    this.#told = false
    this.counts.wave = null
    this.#stopTimers()
    void this.#sender?.stop()
    const went = this.#went.splice(0)
    for (const [i, { receiver, before }] of went.entries()) {
      const count = (went[i + 1]?.before ?? this.counts.moved) - before
      const key = keyOf(receiver) ?? ''
      this.#emptied.delete(key)
      void fateOf(receiver).then(fate => {
        receiver.close()
        if (fate === 'alive' || count === 0 || this.#emptied.delete(key)) return
        this.counts.lost += count
        this.#settings.logger.warn({ count }, 'connections were lost with the process that had taken them')
      })
    }
  }

  /** A process that drained told so when it left: what had gone to it came back, or ended by itself. */
  emptied({ pid, pidfd }: { readonly pid: number; readonly pidfd: OwnedFd | null }): void {
    this.#emptied.add((pidfd === null ? null : keyOf(pidfd)) ?? `${pid}`)
  }

  /** The process that serves takes no connections: keeping them gains nothing. One that serves later may take the rest. */
  nobodyTakes(): void {
    if (this.#leaving) this.#report()
  }

  /** A way may be open now that was not before. */
  retry(): void {
    if (this.#leaving && this.#sender === null) this.#seek()
  }

  /** Owns the items: one end of a way, its log, and the other process's pidfd. */
  open(items: readonly BundleItem[]): void {
    const of = (role: BundleItem['role']) => items.find(item => item.role === role)
    const channel = of('moveChannel')
    const log = of('moveLog')
    const pidfd = of('pidfd')
    const left = new Set(items.map(item => item.fd))
    try {
      if (channel === undefined || log === undefined) return
      const gives = channel.spec === GIVE
      // The process that made a socket pair counts as the peer of both its ends; embedded, that is the receiver.
      const other = pidfd?.fd ?? (gives ? peerPidfd(channel.fd, 'pidfd of who takes connections') : null)
      // There is no receiver: the next channel is asked for as before.
      if (other === 'dead') return
      if (other !== null) left.add(other)
      left.delete(channel.fd)
      left.delete(log.fd)
      if (gives) this.give(channel.fd, log.fd, other)
      else this.adopt(channel.fd, log.fd, other ?? (Number(channel.name) || 0))
    } catch (error) {
      this.#settings.logger.warn({ err: error }, 'a way for connections cannot be used')
    } finally {
      closeAll(left)
    }
  }

  /** Takes channel and log, also when it throws; borrows `receiver`. */
  give(channel: OwnedFd, log: OwnedFd, receiver: OwnedFd | null): void {
    if (!this.#leaving || this.#sender !== null) {
      closeAll([channel, log])
      return
    }
    const { move, movesPerSecond, firstWave } = this.#settings
    const key = receiver === null ? null : keyOf(receiver)
    const { other, ...way } = endOfChannel(channel, log, receiver)
    const { moved } = this.counts
    if (other !== null) this.#went.push({ receiver: other, before: moved })
    const sender = new ConnectionSender({
      ...way,
      sources: () => this.#sources(),
      which: move === 'idle' ? 'idle' : 'auto',
      perSecond: movesPerSecond,
      firstWaveMs: key !== null && key === this.#proved ? 0 : firstWave,
      drainMs: Math.max(0, this.#cutAt - performance.now()),
      proved: () => {
        this.#proved = key
        this.counts.wave = 'rest'
      },
      counts: this.counts,
      fault: this.#fault,
      rested: () => this.#announceEmpty(),
      ended: () => {
        this.#sender = null
        const inVain = this.counts.moved === moved
        if (!inVain) this.#waited = 0
        this.#later(inVain ? IN_VAIN_MS : AGAIN_MS)
      },
    })
    this.#sender = sender
    this.counts.wave = firstWave === 0 || (key !== null && key === this.#proved) ? 'rest' : 'first'
    clearTimeout(this.#timer)
    sender.start()
  }

  /** Takes channel and log, also when it throws; borrows `sender`, which is a pid where the kernel has no pidfds. */
  adopt(channel: OwnedFd, log: OwnedFd, sender: OwnedFd | number): void {
    if (this.#leaving) {
      closeAll([channel, log])
      return
    }
    const { other, ...way } = endOfChannel(channel, log, typeof sender === 'number' ? null : sender)
    const receiver = new ConnectionReceiver({
      ...way,
      sender: typeof sender === 'number' ? sender : other!,
      target: (listener, protocol) => this.#target(listener, protocol),
      counts: this.counts,
      fault: this.#fault,
      ended: () => this.#takers.delete(receiver),
    })
    this.#takers.add(receiver)
    receiver.start()
  }

  /** Resolves when no connection is between two processes; at once when none is. */
  async settled(): Promise<void> {
    await this.#sender?.settled()
  }

  /** Nothing goes or comes any more. */
  close(): void {
    this.#announceEmpty()
    this.#leaving = false
    this.#stopTimers()
    void this.#sender?.stop()
    closeAll(this.#went.splice(0).map(({ receiver }) => receiver))
    for (const each of this.#takers) void each.stop()
  }

  *#sources(): Generator<Source> {
    for (const listener of this.#listeners())
      for (const moving of listener.moving) yield { listener: listener.name, moving }
  }

  #target(name: string, protocol: string): MovableConnections | undefined {
    for (const listener of this.#listeners()) {
      if (listener.name !== name) continue
      for (const moving of listener.moving) if (moving.protocol === protocol) return moving
    }
    return undefined
  }

  #seek(): void {
    if (!this.#leaving || this.#sender !== null) return
    if (movableOf(this.#sources()) > 0) this.#ask()
    const { since, ms } = this.#pause
    this.#waited += Math.min(performance.now() - since, ms)
    if (this.#waited >= PATIENCE_MS) this.#report()
    this.#later(ASK_MS)
  }

  /** Once: nothing is left here. */
  #announceEmpty(): void {
    if (!this.#leaving || this.#since === null) return
    for (const listener of this.#listeners()) if (listener.connections > 0) return
    const { at, moved } = this.#since
    this.#since = null
    const { longestGivingMs } = this.counts.report
    this.#settings.logger.info(
      { moved: this.counts.moved - moved, afterMs: Math.round(performance.now() - at), longestGivingMs },
      'no connection is left here',
    )
  }

  #stopTimers(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#halfTime)
  }

  #later(ms: number): void {
    clearTimeout(this.#timer)
    if (!this.#leaving) return
    this.#pause = { since: performance.now(), ms }
    this.#timer = setTimeout(() => this.#seek(), ms)
    this.#timer.unref()
  }

  #report(): void {
    if (this.#told) return
    this.#told = true
    for (const listener of this.#listeners()) listener.announce()
  }

  readonly #fault = (error: unknown, message: string): void =>
    this.#settings.logger.warn({ err: error }, message)
}

/** `other` is a dup, owned by the caller as the rest. */
function endOfChannel(
  channel: OwnedFd,
  log: OwnedFd,
  peer: OwnedFd | null,
): { link: Link; log: MoveLog; other: OwnedFd | null } {
  const own = [channel, log]
  try {
    const other = peer?.dup() ?? null
    if (other !== null) own.push(other)
    return { log: MoveLog.open(log), link: new Link(new Channel(channel)), other }
  } catch (error) {
    closeAll(own)
    throw error
  }
}
