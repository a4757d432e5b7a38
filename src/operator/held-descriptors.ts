import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'

/** How long a daemon holds a descriptor: until it is removed, for some milliseconds, or until a process ends. */
export type DescriptorLease = 'forever' | { readonly ms: number } | { readonly pid: number }

/** A descriptor that a daemon holds for other processes. */
export interface HeldDescriptor {
  readonly name: string
  /** `socket`, `file` (a memfd is one too), `fifo`, `char`, `block`, `dir`, `anon` (an eventfd, say) or `other`. */
  readonly type: string
  /** The address of a socket, such as `udp://127.0.0.1:53`; null for other types. */
  readonly address: string | null
  /** Inode number, decimal. All descriptors of one file or socket have the same number. */
  readonly inode: string
  /** The process that gave the descriptor to the daemon; 0 if the process is in another PID namespace. */
  readonly pid: number
  /** ISO 8601. */
  readonly putAt: string
  /** End of the lease, ISO 8601; null if the lease has no time limit. */
  readonly until: string | null
  /** The process whose end ends the lease, or null; 0 if the process is in another PID namespace. */
  readonly whilePid: number | null
  /** The process that has claimed the descriptor exclusively, or null. */
  readonly claimedBy: number | null
  /** Processes that have claimed the descriptor until they end, exclusively or not, as `fd-broker exec` does. */
  readonly users: readonly ClaimingProcess[]
}

/** A process that has claimed a descriptor until it ends. */
export interface ClaimingProcess {
  /** 0 if the process is in another PID namespace. */
  readonly pid: number
  /** ISO 8601. */
  readonly since: string
  /** Whether the claim excludes other processes. */
  readonly exclusive: boolean
}

/** The descriptors that one process has claimed until it ends, in the status of a daemon. */
export interface DescriptorsOfProcess {
  /** 0 stands for all processes in other PID namespaces. */
  readonly pid: number
  /** The time of the first claim, ISO 8601. */
  readonly since: string
  readonly names: readonly string[]
}

export interface DescriptorOrder {
  readonly name: string
  readonly fd: OwnedFd
  /** The pidfd of the process whose end ends the lease, or null. */
  readonly lifetime: OwnedFd | null
  /** Duration of the lease in milliseconds, or null. */
  readonly ms: number | null
  readonly replace: boolean
  readonly by: DescriptorUser
  /** Maximum number of descriptors of this descriptor's service, or of those without a service. Default: only the daemon's limit. */
  readonly most?: number
}

export interface ClaimOrder {
  readonly name: string
  readonly by: DescriptorUser
  /** Whether other processes may claim the descriptor too. */
  readonly shared: boolean
  /** The pidfd of the process whose end ends the claim; null if the end of the connection does. */
  readonly claimant: OwnedFd | null
}

export interface ClaimResult {
  /** A duplicate, owned by the caller. */
  readonly fd: OwnedFd
  /** Number of other processes that have claimed the descriptor until they end. */
  readonly others: number
}

/** The operator at the other end of a connection. */
export interface DescriptorUser {
  readonly pid: number
  readonly uid: number
}

/** Holds descriptors for other processes. An exception is sent to the operator that requested the operation. */
export interface DescriptorHolder {
  list(): HeldDescriptor[]
  /** Takes ownership of both descriptors, also if it throws. */
  put(order: DescriptorOrder): void
  /** Takes ownership of the pidfd, also if it throws. */
  claim(order: ClaimOrder): ClaimResult
  /** Ends the claim of this connection or, with the borrowed pidfd `claimant`, of that process. */
  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void
  remove(name: string, by: DescriptorUser): void
  /** Whether this connection has a claim that excludes others and ends with it. */
  hasClaim(by: DescriptorUser): boolean
  /** Ends the claims of a connection that has closed. */
  operatorLeft(by: DescriptorUser): void
  /** Calls `changed` after each change of the list. Returns a function that ends the calls. */
  watch(changed: () => void): () => void
}

/** Returns the service in a descriptor's name: `shop` for `shop/spool`; null if there is none. */
export function serviceOfName(name: string): string | null {
  const slash = name.indexOf('/')
  return slash < 1 ? null : name.slice(0, slash)
}

/** Longer names are not repeated in messages and logs. */
const MOST_SHOWN = 256
/** Names contain no colon and no comma, which separate names in LISTEN_FDNAMES and on command lines. */
const NAME = /^[^:,\s\p{Cc}]{1,128}$/u

/** Throws ERR_FDB_OPTION. */
/** Throws ERR_FDB_OPTION if no descriptor, and no listener of workers, can have so long a name. */
export function checkNameLength(name: string): void {
  if (name.length > MOST_SHOWN) checkDescriptorName(name)
}

export function checkDescriptorName(name: string): void {
  if (typeof name === 'string' && NAME.test(name)) return
  throw new FdbError(
    'ERR_FDB_OPTION',
    `the name of a descriptor is ${typeof name === 'string' && name.length > MOST_SHOWN ? `${name.length} characters long` : JSON.stringify(name)}: give 1 to 128 characters without colon, comma and space`,
  )
}
