import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'

/** How long a daemon holds a descriptor: for good, for a time, or as long as a process lives. */
export type DescriptorLease = 'forever' | { readonly ms: number } | { readonly pid: number }

/** A descriptor that a daemon holds for other processes. */
export interface HeldDescriptor {
  readonly name: string
  /** `socket`, `file` (a memfd is one too), `fifo`, `char`, `block`, `dir`, `anon` (an eventfd, say) or `other`. */
  readonly type: string
  /** Sockets: where it is bound, `udp://127.0.0.1:53`; null for all else. */
  readonly address: string | null
  /** Decimal; the same for every descriptor of the same object. */
  readonly inode: string
  /** The process that put it; 0: in another PID namespace. */
  readonly pid: number
  /** ISO 8601. */
  readonly putAt: string
  /** When it goes; null: not by itself. */
  readonly until: string | null
  /** With which process it goes (0: in another PID namespace); null: with none. */
  readonly whilePid: number | null
  /** The process that has claimed it exclusively; null: none. */
  readonly claimedBy: number | null
  /** Processes that have claimed it for their lifetime, as `fd-broker exec` does, alone or beside others. */
  readonly users: readonly ClaimingProcess[]
}

/** A process that has claimed a descriptor for as long as it lives. */
export interface ClaimingProcess {
  /** 0: in another PID namespace. */
  readonly pid: number
  /** ISO 8601. */
  readonly since: string
  /** No other process may have it. */
  readonly exclusive: boolean
}

/** The claims of one process for its lifetime, in the status of a daemon. */
export interface DescriptorsOfProcess {
  /** 0: in other PID namespaces. */
  readonly pid: number
  /** The time of the first of them, ISO 8601. */
  readonly since: string
  readonly names: readonly string[]
}

export interface DescriptorOrder {
  readonly name: string
  readonly fd: OwnedFd
  /** The process whose end ends it. */
  readonly lifetime: OwnedFd | null
  /** After which it goes; null: not by itself. */
  readonly ms: number | null
  readonly replace: boolean
  readonly by: DescriptorUser
  /** The most descriptors of its service, or without one. Absent: as many as there is room for. */
  readonly most?: number
}

export interface ClaimOrder {
  readonly name: string
  readonly by: DescriptorUser
  /** Others may have it too. */
  readonly shared: boolean
  /** The process that claims it for its lifetime; null: the claim lasts as long as the connection. */
  readonly claimant: OwnedFd | null
}

export interface ClaimResult {
  /** A duplicate, owned by the caller. */
  readonly fd: OwnedFd
  /** The number of other processes that have claimed it too, for their lifetime. */
  readonly others: number
}

/** The asking client: one connection. */
export interface DescriptorUser {
  readonly pid: number
  readonly uid: number
}

/** Holds descriptors for other processes. Its exceptions are sent to the asking client. */
export interface DescriptorHolder {
  list(): HeldDescriptor[]
  /** Takes both descriptors, also when it throws. */
  put(order: DescriptorOrder): void
  /** Takes the pidfd, also when it throws. */
  claim(order: ClaimOrder): ClaimResult
  /** The claim of this user; of the process of a pidfd, which is borrowed. */
  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void
  remove(name: string, by: DescriptorUser): void
  /** This user has gone: it claims nothing any more. */
  operatorLeft(by: DescriptorUser): void
  /** Calls `changed` after each change; returns what ends that. */
  watch(changed: () => void): () => void
}

/** The service that a descriptor belongs to by its name, `shop/spool`; null: to none. */
export function serviceIn(name: string): string | null {
  const slash = name.indexOf('/')
  return slash < 1 ? null : name.slice(0, slash)
}

/** LISTEN_FDNAMES divides names by colons, a command line by commas. */
const NAME = /^[^:,\s\p{Cc}]{1,128}$/u

/** Throws ERR_FDB_OPTION. */
export function checkDescriptorName(name: string): void {
  if (typeof name === 'string' && NAME.test(name)) return
  throw new FdbError(
    'ERR_FDB_OPTION',
    `the name of a descriptor is ${JSON.stringify(name)}: give 1 to 128 characters without colon, comma and space`,
  )
}
