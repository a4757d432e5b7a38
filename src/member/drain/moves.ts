import { LONGEST_MS } from '../../base/duration.js'
import { MoveCounts } from '../../connections/counts.js'
import type { MovableConnections } from '../../connections/movable.js'
import { GIVE } from '../../connections/move-channel.js'
import { MoveLog } from '../../connections/move-log.js'
import { countMovable, type Source } from '../../connections/move-slice.js'
import { ConnectionReceiver } from '../../connections/receiver.js'
import { ConnectionSender } from '../../connections/sender.js'
import { closeAll, closeOnThrow, type OwnedFd, peerPidfd, pidOfPidfd } from '../../kernel/index.js'
import { processKey } from '../../os/liveness.js'
import { credentialsOf, isEnding } from '../../os/process-identity.js'
import type { BundleItem } from '../../wire/bundle.js'
import { Channel } from '../../wire/channel.js'
import { Link } from '../../wire/link.js'
import type { LeavingTimes } from '../listeners/listener.js'
import type { Settings } from '../options/options.js'

/** The interval at which this process asks for a move channel. */
const ASK_MS = 250
/** After a channel has ended, the delay before this process asks for the next one. */
const NEXT_MS = 10
/** The delay after a channel that moved nothing: the next one will probably move nothing either, and each delays connections a little. */
const IN_VAIN_MS = 1_000

interface MovingListener {
  readonly name: string
  readonly address: { readonly url: string }
  /** The application has closed it, or moved it to another address. */
  readonly isClosed: boolean
  readonly connections: number
  readonly moving: readonly MovableConnections[]
  announce(times: LeavingTimes): void
  announceFixed(times: LeavingTimes): void
}

interface MovesDeps {
  readonly settings: Pick<
    Settings,
    'drainTimeout' | 'drainTlsTimeout' | 'firstWave' | 'logger' | 'move' | 'movesPerSecond'
  >
  readonly listeners: () => Iterable<MovingListener>
  /** Asks the process that serves for a move channel. */
  readonly ask: () => void
  /** Called when another process serves, before the first connection leaves. */
  readonly began: () => void
}

/**
 * Moves connections between processes. While this process serves, it receives the connections of all older generations; afterwards it sends
 * its own to the process that serves. Connections that cannot move drain, and the end is announced to their clients.
 */
export class Moves {
  readonly counts = new MoveCounts()
  readonly #deps: MovesDeps
  readonly #receivers = new Set<ConnectionReceiver>()
  #sender: ConnectionSender | null = null
  /** The receivers so far, in order; their pidfds are owned. `before`: how many connections had moved when the receiver's first channel opened. */
  #destinations: { readonly receiver: OwnedFd; readonly key: string | null; readonly before: number }[] = []
  #leaving = false
  /** Another process serves. */
  #began = false
  /** False from when this process leaves until it serves again: connections that arrived then would have no drain. */
  #takes = true
  /** Key of the pidfd of the receiver that has served the first few connections (option `firstWave`). */
  #proved: string | null = null
  /** When this process stopped serving, and how many connections had moved before. Null once the last one is logged. */
  #leftAt: { at: number; moved: number } | null = null
  #announced = false
  /** When the remaining connections are closed (performance.now()). */
  #cutAt = 0
  /** The same for connections with TLS. */
  #cutTlsAt = 0
  #why: LeavingTimes['why'] = 'replaced'
  #timer: NodeJS.Timeout | undefined
  /** Announces the end after half of the drain's time, so that clients can end their connections before they are closed. */
  #halfTime: NodeJS.Timeout | undefined

  constructor(deps: MovesDeps) {
    this.#deps = deps
  }

  /** Starts to move or drain the connections. `receiver`: another process serves, and may take connections. Idempotent. */
  leave(receiver: boolean): void {
    const { drainTimeout, drainTlsTimeout, move } = this.#deps.settings
    for (const each of this.#receivers) void each.stop()
    this.#takes = false
    this.#why = receiver ? 'replaced' : 'ended'
    if (receiver && !this.#began) this.#deps.began()
    this.#began ||= receiver
    if (!this.#leaving) {
      this.#cutAt = performance.now() + drainTimeout
      this.#cutTlsAt = performance.now() + Math.max(drainTimeout, drainTlsTimeout)
    }
    if (!receiver || move === 'off') {
      this.#leaving = false
      this.#stopTimers()
      void this.#sender?.stop()
      this.#announce()
      return
    }
    const already = this.#leaving
    this.#leaving = true
    this.#announceFixed()
    if (already) return
    this.#proved = null
    this.#leftAt = { at: performance.now(), moved: this.counts.moved }
    this.#announceAtHalf(drainTimeout)
    this.#askForChannel()
  }

  /** Remaining connections are closed after `ms`, unless that is later than planned. */
  limit(ms: number): void {
    const cutAt = performance.now() + ms
    if (!this.#leaving || cutAt >= this.#cutAt) return
    this.#cutAt = cutAt
    this.#cutTlsAt = cutAt
    if (!this.#announced) this.#announceFixed()
    else for (const listener of this.#deps.listeners()) listener.announce(this.#times)
    this.#announceAtHalf(ms)
  }

  get #times(): LeavingTimes {
    const now = performance.now()
    return {
      plainMs: Math.max(0, this.#cutAt - now),
      tlsMs: Math.max(0, this.#cutTlsAt - now),
      why: this.#why,
    }
  }

  #announceAtHalf(ms: number): void {
    clearTimeout(this.#halfTime)
    this.#halfTime = setTimeout(() => this.#announce(), Math.min(ms / 2, LONGEST_MS))
    this.#halfTime.unref()
  }

  /** This process starts to serve: takes back the connections of an undecided slice, and counts those that moved to a dead process as lost. */
  serve(): void {
    this.#leaving = false
    this.#began = false
    this.#takes = true
    this.#announced = false
    this.counts.wave = null
    this.#stopTimers()
    void this.#sender?.stop()
    const destinations = this.#destinations.splice(0)
    for (const [i, { receiver, before }] of destinations.entries()) {
      const count = (destinations[i + 1]?.before ?? this.counts.moved) - before
      // A process that lives gives its connections back, or drains them.
      const dead = isEnding(receiver)
      receiver.close()
      if (!dead || count === 0) continue
      this.counts.lost += count
      this.#deps.settings.logger.warn(
        { count },
        'connections were lost with the process that had received them',
      )
    }
  }

  /** Announces the end at once, because the process that serves takes no connections. A later process may still take some. */
  noReceiver(): void {
    if (this.#leaving) this.#announce()
  }

  /** Asks the serving process for a move channel again, unless one is in use: that process may be able to take connections now. */
  retry(): void {
    if (this.#leaving && this.#sender === null) this.#askForChannel()
  }

  /** Uses one end of a move channel. Owns the items: the channel, its log, and the other process's pidfd. */
  open(items: readonly BundleItem[]): void {
    const of = (role: BundleItem['role']) => items.find(item => item.role === role)
    const channel = of('moveChannel')
    const log = of('moveLog')
    const pidfd = of('pidfd')
    const unused = new Set(items.map(item => item.fd))
    try {
      if (channel === undefined || log === undefined) return
      const sends = channel.spec === GIVE
      // In embedded hosting the receiver made the socket pair, and the kernel reports it as the peer of both ends.
      const other =
        pidfd?.fd ?? (sends ? peerPidfd(channel.fd, 'pidfd of the process that takes connections') : null)
      // The receiver has died. The timer asks for the next channel.
      if (other === 'dead') return
      if (other !== null) unused.add(other)
      unused.delete(channel.fd)
      unused.delete(log.fd)
      if (sends) this.send(channel.fd, log.fd, other)
      else this.receive(channel.fd, log.fd, other ?? (Number(channel.name) || 0))
    } catch (error) {
      this.#deps.settings.logger.warn(
        { err: error },
        'a move channel cannot be used and is closed: connections move over a later one, or drain',
      )
    } finally {
      closeAll(unused)
    }
  }

  /** Owns channel and log, also if it throws; borrows `receiver`. */
  send(channel: OwnedFd, log: OwnedFd, receiver: OwnedFd | null): void {
    if (!this.#leaving || this.#sender !== null) {
      closeAll([channel, log])
      return
    }
    const { move, movesPerSecond, firstWave } = this.#deps.settings
    const key = receiver === null ? null : processKey(receiver)
    const secrets = isOwnUser(receiver)
    const { other, ...way } = endOfChannel(channel, log, receiver)
    const { moved } = this.counts
    if (other !== null) this.#noteDestination(other, key)
    const sender = new ConnectionSender({
      ...way,
      sources: () => this.#sources(secrets),
      which: move === 'idle' ? 'idle' : 'auto',
      perSecond: movesPerSecond,
      firstWaveMs: key !== null && key === this.#proved ? 0 : firstWave,
      drainMs: Math.max(0, this.#cutAt - performance.now()),
      onProved: () => {
        this.#proved = key
        this.counts.wave = 'rest'
      },
      counts: this.counts,
      reportError: this.#reportError,
      onIdle: () => this.#logEnd(),
      onEnded: () => {
        this.#sender = null
        this.#later(this.counts.moved === moved ? IN_VAIN_MS : NEXT_MS)
      },
    })
    this.#sender = sender
    this.counts.wave = firstWave === 0 || (key !== null && key === this.#proved) ? 'rest' : 'first'
    clearTimeout(this.#timer)
    sender.start()
  }

  /** Owns the pidfd. A receiver that closes its channels gets one each second, and counts once. */
  #noteDestination(receiver: OwnedFd, key: string | null): void {
    const last = this.#destinations.at(-1)
    if (last !== undefined && key !== null && last.key === key) receiver.close()
    else this.#destinations.push({ receiver, key, before: this.counts.moved })
  }

  /** Owns channel and log, also if it throws; borrows `sender`, a pidfd, or a pid if the kernel has no pidfds. */
  receive(channel: OwnedFd, log: OwnedFd, sender: OwnedFd | number): void {
    if (!this.#takes) {
      closeAll([channel, log])
      return
    }
    const { other, ...way } = endOfChannel(channel, log, typeof sender === 'number' ? null : sender)
    const receiver = new ConnectionReceiver({
      ...way,
      sender: typeof sender === 'number' ? sender : other!,
      target: (listener, protocol, address) => this.#target(listener, protocol, address),
      counts: this.counts,
      reportError: this.#reportError,
      onEnded: () => this.#receivers.delete(receiver),
    })
    this.#receivers.add(receiver)
    receiver.start()
  }

  /** Calls `act` when no connection is on its way to this process, from an older one or back: now, if none is. As {@link settled}, takes no more connections. */
  whenArrived(act: () => void): void {
    if (this.#receivers.size === 0 && this.#sender?.isSettled !== false) act()
    else void this.settled().then(act)
  }

  /** Resolves when no slice is undecided, and no connection is on its way to this process, from an older one or back. For a process that leaves. */
  async settled(): Promise<void> {
    await Promise.all([this.#sender?.settled(), ...[...this.#receivers].map(each => each.stop())])
  }

  close(): void {
    this.#logEnd()
    this.#leaving = false
    this.#stopTimers()
    void this.#sender?.stop()
    closeAll(this.#destinations.splice(0).map(({ receiver }) => receiver))
    for (const each of this.#receivers) void each.stop()
  }

  /** `secret`: also those whose records contain secrets. */
  *#sources(secret = true): Generator<Source> {
    for (const listener of this.#deps.listeners())
      for (const moving of listener.moving)
        if (secret || moving.secret !== true)
          yield { listener: listener.name, address: listener.address.url, moving }
  }

  /**
   * A client has chosen the address, not the name: only if no listener of this version has the address, that of the name takes the connection. Several
   * listeners may have the address (SO_REUSEPORT, devices, network namespaces): of these the one of the name.
   */
  #target(name: string, protocol: string, address: string): MovableConnections | undefined {
    const listeners = [...this.#deps.listeners()]
    const there = listeners.filter(listener => listener.address.url === address && !listener.isClosed)
    const named = (of: typeof listeners) => of.filter(listener => listener.name === name)
    const takers = [named(there), there, named(listeners)].find(({ length }) => length > 0) ?? []
    return takers.flatMap(({ moving }) => moving).find(moving => moving.protocol === protocol)
  }

  #askForChannel(): void {
    if (!this.#leaving || this.#sender !== null) return
    if (countMovable(this.#sources()) > 0) this.#deps.ask()
    this.#later(ASK_MS)
  }

  #logEnd(): void {
    if (!this.#leaving || this.#leftAt === null) return
    for (const listener of this.#deps.listeners()) if (listener.connections > 0) return
    const { at, moved } = this.#leftAt
    this.#leftAt = null
    const { longestGivingMs } = this.counts.report
    this.#deps.settings.logger.info(
      { moved: this.counts.moved - moved, afterMs: Math.round(performance.now() - at), longestGivingMs },
      'no connection is left in this process',
    )
  }

  #stopTimers(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#halfTime)
  }

  #later(ms: number): void {
    clearTimeout(this.#timer)
    if (!this.#leaving) return
    this.#timer = setTimeout(() => this.#askForChannel(), ms)
    this.#timer.unref()
  }

  /** A server that has no connection that can move announces the end to all, also to those that arrive later: so it hears of it when all have arrived. */
  #announceFixed(): void {
    this.whenArrived(() => {
      if (!this.#leaving || this.#announced) return
      for (const listener of this.#deps.listeners()) listener.announceFixed(this.#times)
    })
  }

  #announce(): void {
    if (this.#announced) return
    this.#announced = true
    for (const listener of this.#deps.listeners()) listener.announce(this.#times)
  }

  readonly #reportError = (error: unknown, message: string): void =>
    this.#deps.settings.logger.warn({ err: error }, message)
}

/** Opens one end of a move channel. Owns channel and log. The caller owns the result, in which `other` is a dup of `peer`. */
function endOfChannel(
  channel: OwnedFd,
  log: OwnedFd,
  peer: OwnedFd | null,
): { link: Link; log: MoveLog; other: OwnedFd | null } {
  const own = [channel, log]
  return closeOnThrow(own, () => {
    const other = peer?.dup() ?? null
    if (other !== null) own.push(other)
    return { log: MoveLog.open(log), link: new Link(new Channel(channel)), other }
  })
}

/** Reports whether the process runs as this process's user. False if that is unknown. */
function isOwnUser(pidfd: OwnedFd | null): boolean {
  const pid = pidfd === null ? 0 : pidOfPidfd(pidfd)
  return pid > 0 && credentialsOf(pid)?.uid === process.geteuid?.()
}
