/**
 * Bundles of descriptors between two processes. The sender describes each descriptor by its identity ({@link packBundle}); the receiver compares each one
 * with that before anything uses it, and refuses the whole batch if one differs ({@link unpackFds}).
 */

import { FdbError } from '../errors.js'
import { closeAll, inspect, MAX_FDS_PER_MESSAGE, type OwnedFd } from '../kernel/index.js'
import { type FdIdentity, verifyIdentity } from '../listeners/index.js'
import { fdbroker } from '../proto/wire.js'

const Role = fdbroker.wire.Item.Role

type ItemRole =
  /** A role that this release does not know. Never sent; the receiver closes the descriptor. */
  | 'unknown'
  | 'listener'
  | 'named'
  | 'segment'
  | 'control'
  | 'lock'
  | 'reservation'
  | 'pidfd'
  | 'moveLog'
  | 'moveChannel'
  | 'events'

const ROLES: Readonly<Record<ItemRole, number>> = {
  unknown: Role.UNKNOWN,
  listener: Role.LISTENER,
  named: Role.NAMED,
  segment: Role.SEGMENT,
  control: Role.CONTROL,
  lock: Role.LOCK,
  pidfd: Role.PIDFD,
  moveLog: Role.MOVE_LOG,
  moveChannel: Role.MOVE_CHANNEL,
  reservation: Role.RESERVATION,
  events: Role.EVENTS,
}
const ROLE_NAMES = new Map(Object.entries(ROLES).map(([name, number]) => [number, name as ItemRole]))

/** A descriptor to pass to another process, and its purpose. */
export interface BundleItem {
  readonly role: ItemRole
  /** For listeners and named descriptors. */
  readonly name?: string
  /** For listeners: the spec that the application passed to listen(). */
  readonly spec?: string
  /** For segments. */
  readonly epoch?: number
  readonly writable?: boolean
  /** The sending link borrows it until the receiver has acknowledged the bundle. In the receiving process the bundle's handler owns it. */
  readonly fd: OwnedFd
}

type WireItem = fdbroker.wire.Item.$Properties
export type WireFds = fdbroker.wire.Fds.$Properties

/** Limit of the names and specs in one message. The receiver accepts items of 512 KiB, including the identities of the descriptors. */
const MOST_TEXT_BYTES = 256 * 1024

/**
 * Splits a bundle into messages of at most 253 descriptors, and of about {@link MOST_TEXT_BYTES}. The generator inspects a message's descriptors
 * when it yields that message.
 */
export function* packBundle(items: readonly BundleItem[]): Generator<{ fds: OwnedFd[]; message: WireFds }> {
  for (let index = 0, at = 0, end = 0; at < items.length || index === 0; index++, at = end) {
    end = endOfBatch(items, at)
    const slice = items.slice(at, end)
    const fds = slice.map(item => item.fd)
    const identities = inspect(fds)
    yield {
      fds,
      message: {
        index,
        last: end >= items.length,
        items: slice.map((item, i) => packItem(item, identities[i]!)),
      },
    }
  }
}

function endOfBatch(items: readonly BundleItem[], from: number): number {
  let end = from
  for (let bytes = 0; end < items.length && end - from < MAX_FDS_PER_MESSAGE; end++) {
    const { name = '', spec = '' } = items[end]!
    bytes += Buffer.byteLength(name) + Buffer.byteLength(spec)
    if (bytes > MOST_TEXT_BYTES && end > from) break
  }
  return end
}

function packItem({ role, name, spec, epoch, writable }: BundleItem, identity: FdIdentity): WireItem {
  return { role: ROLES[role], name, spec, epoch, writable, identity }
}

function unpackIdentity(wire: fdbroker.wire.Identity.$Properties): FdIdentity {
  const identity: FdIdentity = {
    type: (wire.type || 'other') as FdIdentity['type'],
    dev: wire.dev ?? '',
    ino: wire.ino ?? '',
  }
  if (!wire.family) return identity
  return {
    ...identity,
    family: wire.family as NonNullable<FdIdentity['family']>,
    socketType: (wire.socketType || 'other') as NonNullable<FdIdentity['socketType']>,
    protocol: wire.protocol ?? 0,
    accepting: wire.accepting ?? false,
    address: wire.address ?? '',
    port: wire.port ?? 0,
    abstract: wire.abstract ?? false,
    ...(wire.cookie ? { cookie: wire.cookie } : {}),
  }
}

/** Unpacks one Fds message and verifies that each descriptor refers to the file that the sender described. Owns `fds`; closes them all if it throws. */
export function unpackFds(message: WireFds, fds: OwnedFd[]): BundleItem[] {
  try {
    const items = message.items ?? []
    if (items.length !== fds.length) {
      throw new FdbError(
        'ERR_FDB_FDS_MISSING',
        `batch ${message.index ?? 0} describes ${items.length} descriptors and carries ${fds.length}: the peer is faulty; the handoff is refused`,
      )
    }
    const got = inspect(fds)
    return items.map((item, i) => {
      const role = ROLE_NAMES.get(item.role ?? 0) ?? 'unknown'
      const name = item.name || role
      const difference = verifyIdentity(unpackIdentity(item.identity ?? {}), got[i]!)
      if (difference !== null) {
        throw new FdbError(
          'ERR_FDB_FD_MISMATCH',
          `descriptor ${i} of batch ${message.index ?? 0} ("${name}") is not what was announced: ${difference}; the handoff is refused`,
        )
      }
      return {
        role,
        name: item.name ?? '',
        spec: item.spec ?? '',
        epoch: item.epoch ?? 0,
        writable: item.writable ?? false,
        fd: fds[i]!,
      }
    })
  } catch (error) {
    closeAll(fds)
    throw error
  }
}
