import { afterReading, type Limit } from '../base/after-reading.js'
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

/** Limit of the descriptors that a peer can make this process hold in incomplete bundles. */
const MAX_BUNDLE_FDS = 100_000
/** Limit of incomplete bundles per link. */
const MAX_BUNDLES = 64
/** Another user must complete its bundles within this time. */
const BUNDLE_MS = 30_000
/** No heartbeat is sent while the peer has this much unread: a quarter of the usual buffer of a Unix socket (`net.core.wmem_default`, 208 KiB). */
const BEATS_UNREAD_BYTES = 52 * 1024
/** Number of batches that may be unacknowledged at a time. */
const BATCH_WINDOW = 2

export interface LinkHandler {
  /** Receives one message. The handler owns `fds`, and closes them if it does not need them. Only a Hello and a Welcome carry a descriptor, a pidfd; all others arrive by {@link bundle}. */
  message(envelope: WireEnvelope, fds: OwnedFd[]): void
  /** Receives a whole bundle of verified descriptors, which the handler owns. Without this method the link closes all received bundles. */
  bundle?(items: BundleItem[]): void
  /** A message cannot be decoded, or its descriptors differ from the announced ones. The link stays open until the handler closes it. */
  broken(error: FdbError): void
  /** The peer or a failure has closed the channel. Not called after {@link Link.close}. */
  end(error: FdbError | null): void
}

/** Sends and receives Envelopes over a channel, and bundles of descriptors, of which the receiver acknowledges each batch. */
export class Link {
  readonly channel: Channel
  #handler: LinkHandler | null = null
  /** The incomplete bundles, by number. */
  readonly #incoming = new Map<number, BundleItem[]>()
  #incomingFds = 0
  /** Runs while another user's bundle is incomplete. */
  #bundleLimit: Limit | undefined
  readonly #acks = new Map<string, () => void>()
  #nextBundle = 0
  #ended: FdbError | null | undefined
  #onEnd = new Set<() => void>()

  constructor(channel: Channel) {
    this.channel = channel
  }

  /** Starts to read. A second call replaces the handler. */
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

  get idleMs(): number {
    return this.channel.idleMs
  }

  /** Resolves when the kernel has accepted the message. Borrows `fds` until then. */
  send(body: WireBody, fds?: readonly OwnedFd[]): Promise<void> {
    return this.channel.send(Envelope.encode(body).finish(), fds)
  }

  /** Sends a message that needs no answer. If sending fails, closes the channel and calls {@link LinkHandler.end}. */
  post(body: WireBody): void {
    this.send(body).catch((error: FdbError) => {
      // If the peer has left, its earlier messages are still read; the channel then reports the end itself.
      if (!this.open || peerLeft(error)) return
      void this.channel.close()
      this.#onChannelEnd(error)
    })
  }

  /** Posts a Heartbeat, unless many bytes wait unread: the socket of a stopped peer must keep room for important messages. */
  beat(heartbeat: NonNullable<WireBody['heartbeat']>): void {
    if (this.open && this.channel.unreadBytes < BEATS_UNREAD_BYTES) this.post({ heartbeat })
  }

  /**
   * Sends descriptors. Resolves when the peer has acknowledged every batch as verified; borrows the descriptors until then.
   * Rejects with ERR_FDB_DEADLINE after `timeoutMs`, or with ERR_FDB_CHANNEL_CLOSED if the link ends.
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
    for (const onEnd of [...this.#onEnd]) onEnd()
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
          `the peer sent ${payload.length} bytes that are no message of this protocol: it is faulty, or of an incompatible release`,
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
        throw new FdbError(
          'ERR_FDB_FDS_MANY',
          `the peer has begun ${MAX_BUNDLES} bundles of descriptors and completed none of them: it is faulty`,
        )
      }
      if (this.#incomingFds + fds.length > MAX_BUNDLE_FDS) {
        throw new FdbError(
          'ERR_FDB_FDS_MANY',
          `the peer sent more than ${MAX_BUNDLE_FDS} descriptors without completing a bundle: it is faulty`,
        )
      }
      for (const item of unpackFds(message, fds)) items.push(item)
      this.#incoming.set(bundle, items)
      this.#incomingFds += fds.length
    } catch (error) {
      closeAll(fds)
      this.#dropIncoming()
      this.#handler?.broken(error as FdbError)
      return
    }
    this.post({ fdsAck: { bundle, index: message.index ?? 0, verified: fds.length } })
    if (message.last) {
      this.#incoming.delete(bundle)
      this.#incomingFds -= items.length
    }
    if (this.channel.foreignUser !== undefined) this.#limitBundles()
    if (message.last) this.#handler.bundle(items)
  }

  #limitBundles(): void {
    if (this.#incoming.size === 0) this.#endBundleLimit()
    else this.#bundleLimit ??= afterReading(BUNDLE_MS, () => this.#bundleIsLate(), { unref: true })
  }

  #endBundleLimit(): void {
    this.#bundleLimit?.clear()
    this.#bundleLimit = undefined
  }

  #bundleIsLate(): void {
    this.#dropIncoming()
    this.#handler?.broken(deadlineError('the end of a bundle of descriptors', BUNDLE_MS))
  }

  #dropIncoming(): void {
    this.#endBundleLimit()
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

/** Whether an error only reports that the peer has left; the code depends on the messages that were in flight. */
export function peerLeft(error: unknown): boolean {
  return FdbError.is(error) && LEFT.has(error.code)
}

/** A range of protocol versions. Two peers use the highest version that both support. */
export interface VersionRange {
  readonly min: number
  readonly max: number
}

export const VERSIONS: VersionRange = { min: 1, max: 1 }

/** Returns the highest version in both ranges, or null if they do not overlap. */
export function negotiate(ours: VersionRange, theirs: VersionRange): number | null {
  const highest = Math.min(ours.max, theirs.max)
  return highest >= Math.max(ours.min, theirs.min) ? highest : null
}

/** Capability: the member accepts moved connections. */
export const TAKES_CONNECTIONS = 'connections'

/** Capability: the process forwards state changes to the leader while it drains, or accepts forwarded ones as the leader. */
export const FORWARDS_WRITES = 'writes'

/** Capability: the process that drains reads the whole state again from a snapshot, if segments that it lacks were merged. */
export const READS_SNAPSHOTS = 'snapshots'

/** Capability: the member merges its sealed segments when it serves. A daemon merges those of other members. */
export const MERGES_SEGMENTS = 'merges'

/** A failure that another process reported, as received. */
interface ErrorReport {
  readonly code?: string | null | undefined
  readonly message?: string | null | undefined
  readonly retryable?: boolean | null | undefined
  readonly phase?: string | null | undefined
  /** Added by this process: the protocol carries no details. */
  readonly details?: FdbError['details']
}

/** Code and message for a Reject that has none. */
export const REFUSED = {
  code: 'ERR_FDB_REJECTED',
  message: 'the process that serves refused this process without a reason',
} as const

const remoteErrors = new WeakSet<FdbError>()

/** Whether another process reported `error`: its text then refers to that process, for example to its options. */
export function isRemoteError(error: FdbError): boolean {
  return remoteErrors.has(error)
}

/** Limits of the texts of a reported failure, which come into logs and into the status. */
const MOST_CODE_CHARACTERS = 64
const MOST_MESSAGE_CHARACTERS = 8_192

/** Converts a reported failure into an error. `fallback` replaces a code that is not of fd-broker, and a missing message. */
export function remoteError(
  { code, message, retryable, phase, details }: ErrorReport,
  fallback: { code: FdbErrorCode; message: string },
): FdbError {
  // A code of a newer release passes unchanged.
  const isCode = code?.startsWith('ERR_FDB_') && code.length <= MOST_CODE_CHARACTERS
  const error = new FdbError(
    isCode ? (code as FdbErrorCode) : fallback.code,
    message?.slice(0, MOST_MESSAGE_CHARACTERS) || fallback.message,
    {
      retryable: retryable ?? false,
      ...(phase ? { phase: phase.slice(0, MOST_CODE_CHARACTERS) } : {}),
      ...(details ? { details } : {}),
    },
  )
  remoteErrors.add(error)
  return error
}
