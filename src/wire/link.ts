import { FdbError, type FdbErrorCode } from '../errors.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import { type BundleItem, packBundle, unpackFds } from './bundle.js'
import type { Channel } from './channel.js'
import { checkDecodeCost } from './decode-cost.js'
import { deadlineError, Pending } from './pending.js'

const { Envelope } = fdbroker.wire
export type WireEnvelope = fdbroker.wire.Envelope
export type WireBody = fdbroker.wire.Envelope.$Properties

/** Descriptors that bundles may bring before their end: a peer cannot make us hold more. */
const MAX_BUNDLE_FDS = 100_000
/** Bundles that have begun and not ended. */
const MAX_BUNDLES = 64
/** A quarter of the smallest buffer that a Unix socket usually has (`net.core.wmem_default`, 208 KiB). */
const BEATS_UNREAD_BYTES = 52 * 1024
/** Batches on the way before the first must have been acknowledged. */
const BATCH_WINDOW = 2

export interface LinkHandler {
  /** One message. Descriptors come by {@link bundle}; any that come otherwise are closed, except the Hello's and Welcome's pidfd. */
  message(envelope: WireEnvelope, fds: OwnedFd[]): void
  /** A whole bundle, every descriptor of it verified. The handler owns them. Absent: none is taken, all are closed. */
  bundle?(items: BundleItem[]): void
  /** A message is not what was announced, or cannot be understood. The link stays; the handler decides. */
  broken(error: FdbError): void
  /** The channel has ended (not by our own close). */
  end(error: FdbError | null): void
}

/** A channel on which Envelopes travel, and bundles of descriptors that are acknowledged batch by batch. */
export class Link {
  readonly channel: Channel
  #handler: LinkHandler | null = null
  /** The bundles that are not whole yet, by their number. */
  readonly #incoming = new Map<number, BundleItem[]>()
  #incomingFds = 0
  readonly #acks = new Map<string, () => void>()
  #nextBundle = 0
  #ended: FdbError | null | undefined
  #onEnd = new Set<() => void>()

  constructor(channel: Channel) {
    this.channel = channel
  }

  /** Begins to read; called again, it changes who is told. */
  start(handler: LinkHandler): void {
    const first = this.#handler === null
    this.#handler = handler
    if (!first) return
    this.channel.start({
      message: (payload, fds) => this.#onFrame(payload, fds),
      end: error => this.#onChannelEnd(error),
    })
  }

  get open(): boolean {
    return this.#ended === undefined
  }

  /** Milliseconds since anything arrived. */
  get idleMs(): number {
    return this.channel.idleMs
  }

  /** Resolves when the kernel has it. `fds` are borrowed until then. */
  send(body: WireBody, fds?: readonly OwnedFd[]): Promise<void> {
    return this.channel.send(Envelope.encode(body).finish(), fds)
  }

  /** As {@link send}, for messages without an answer. If the channel cannot take it, the channel ends, and that is told. */
  post(body: WireBody): void {
    this.send(body).catch((error: FdbError) => {
      // Earlier messages of a peer that has left are still read: its end comes after them.
      if (!this.open || peerLeft(error)) return
      void this.channel.close()
      this.#onChannelEnd(error)
    })
  }

  /** As {@link post}, for a Heartbeat: none where many wait unread, so that a peer that is stopped for long has room for what it must hear. */
  beat(heartbeat: NonNullable<WireBody['heartbeat']>): void {
    if (this.open && this.channel.unreadBytes < BEATS_UNREAD_BYTES) this.post({ heartbeat })
  }

  /**
   * Sends descriptors, borrowed until it resolves: when the peer has acknowledged every batch as verified.
   * Rejects with ERR_FDB_DEADLINE after `timeoutMs`, ERR_FDB_CHANNEL_CLOSED when the link ends before.
   */
  async sendBundle(items: readonly BundleItem[], timeoutMs: number): Promise<void> {
    const until = performance.now() + timeoutMs
    const waiting: Promise<void>[] = []
    const bundle = this.#nextBundle++
    for (const { message, fds } of packBundle(items)) {
      const acknowledged = new Promise<void>(resolve =>
        this.#acks.set(batchKey(bundle, message.index), resolve),
      )
      waiting.push(acknowledged)
      await this.send({ fds: { ...message, bundle } }, fds)
      if (waiting.length >= BATCH_WINDOW) await this.#withinDeadline(waiting.shift()!, until, timeoutMs)
    }
    for (const ack of waiting) await this.#withinDeadline(ack, until, timeoutMs)
  }

  #withinDeadline(promise: Promise<void>, until: number, timeoutMs: number): Promise<void> {
    const ended = () =>
      pending.reject(
        new FdbError('ERR_FDB_CHANNEL_CLOSED', 'the peer left before it acknowledged the descriptors', {
          cause: this.#ended,
        }),
      )
    const pending = new Pending<void>({ onSettled: () => this.#onEnd.delete(ended) })
    pending.limit(Math.max(0, until - performance.now()), () =>
      pending.reject(deadlineError('the acknowledgement of the descriptors', timeoutMs)),
    )
    promise.then(() => pending.resolve())
    if (this.open) this.#onEnd.add(ended)
    else ended()
    return pending.answer
  }

  /** Closes at once; no callback follows. Idempotent. */
  close(): void {
    this.#finish(null)
    void this.channel.close()
  }

  #onChannelEnd(error: FdbError | null): void {
    if (!this.open) return
    this.#finish(error)
    this.#handler?.end(error)
  }

  #finish(error: FdbError | null): void {
    if (!this.open) return
    this.#ended = error
    this.#dropIncoming()
    for (const tell of [...this.#onEnd]) tell()
  }

  #onFrame(payload: Buffer, fds: OwnedFd[]): void {
    let envelope: WireEnvelope
    try {
      checkDecodeCost(payload)
      envelope = Envelope.decode(payload)
    } catch (cause) {
      closeAll(fds)
      this.#handler?.broken(
        new FdbError(
          'ERR_FDB_MESSAGE',
          `the peer sent ${payload.length} bytes that are no message of this protocol`,
          { cause },
        ),
      )
      return
    }
    if (envelope.fds) this.#onFds(envelope.fds, fds)
    else if (envelope.fdsAck) {
      closeAll(fds)
      const key = batchKey(envelope.fdsAck.bundle, envelope.fdsAck.index)
      this.#acks.get(key)?.()
      this.#acks.delete(key)
    } else this.#handler?.message(envelope, fds)
  }

  #onFds(message: NonNullable<WireEnvelope['fds']>, fds: OwnedFd[]): void {
    if (this.#handler?.bundle === undefined) {
      closeAll(fds)
      return
    }
    const bundle = message.bundle ?? 0
    const items = this.#incoming.get(bundle) ?? []
    try {
      if (items.length === 0 && this.#incoming.size >= MAX_BUNDLES) {
        closeAll(fds)
        throw new FdbError(
          'ERR_FDB_FDS_MANY',
          `the peer has begun ${MAX_BUNDLES} bundles and ended none of them`,
        )
      }
      if (this.#incomingFds + fds.length > MAX_BUNDLE_FDS) {
        closeAll(fds)
        throw new FdbError(
          'ERR_FDB_FDS_MANY',
          `the peer sent more than ${MAX_BUNDLE_FDS} descriptors without completing a bundle`,
        )
      }
      for (const item of unpackFds(message, fds)) items.push(item)
      this.#incoming.set(bundle, items)
      this.#incomingFds += fds.length
    } catch (error) {
      this.#dropIncoming()
      this.#handler?.broken(error as FdbError)
      return
    }
    this.post({ fdsAck: { bundle, index: message.index ?? 0, verified: fds.length } })
    if (!message.last) return
    this.#incoming.delete(bundle)
    this.#incomingFds -= items.length
    this.#handler.bundle(items)
  }

  #dropIncoming(): void {
    for (const items of this.#incoming.values()) closeAll(items.map(item => item.fd))
    this.#incoming.clear()
    this.#incomingFds = 0
  }
}

function batchKey(bundle: number | null | undefined, index: number | null | undefined): string {
  return `${bundle ?? 0}.${index ?? 0}`
}

const LEFT: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_CHANNEL_CLOSED',
  'ERR_FDB_CHANNEL_RESET',
  'ERR_FDB_CHANNEL_TRUNCATED',
])

/** Whether an error says no more than that the peer is gone: how that shows depends on what was on its way. */
export function peerLeft(error: unknown): boolean {
  return FdbError.is(error) && LEFT.has(error.code)
}

/** Versions of the conversation that this build speaks. The highest common one is used. */
export interface VersionRange {
  readonly min: number
  readonly max: number
}

export const VERSIONS: VersionRange = { min: 1, max: 1 }

/** The highest version in both ranges, or null when they do not meet. */
export function negotiate(ours: VersionRange, theirs: VersionRange): number | null {
  const highest = Math.min(ours.max, theirs.max)
  return highest >= Math.max(ours.min, theirs.min) ? highest : null
}

/** Capability of a member: connections may be moved to it. */
export const TAKES_CONNECTIONS = 'connections'

/** Capability of a draining generation, and of who receives it: changes are forwarded to the process that may write. */
export const FORWARDS_WRITES = 'writes'

/** The report of a failure from another process, as it arrived. */
interface RemoteError {
  readonly code?: string | null | undefined
  readonly message?: string | null | undefined
  readonly retryable?: boolean | null | undefined
  readonly phase?: string | null | undefined
  /** Details that this process adds; the wire carries none. */
  readonly details?: FdbError['details']
}

const remoteErrors = new WeakSet<FdbError>()

/** Another process has told it: what it says is of that one, its options for example. */
export function isRemoteError(error: FdbError): boolean {
  return remoteErrors.has(error)
}

/** A failure that another process has told. One without a code of ours, or without words, gets those given here. */
export function remoteError(
  { code, message, retryable, phase, details }: RemoteError,
  otherwise: { code: FdbErrorCode; message: string },
): FdbError {
  // One of a newer release is kept as it is.
  const stable = code?.startsWith('ERR_FDB_') ? (code as FdbErrorCode) : otherwise.code
  const error = new FdbError(stable, message || otherwise.message, {
    retryable: retryable ?? false,
    ...(phase ? { phase } : {}),
    ...(details ? { details } : {}),
  })
  remoteErrors.add(error)
  return error
}
