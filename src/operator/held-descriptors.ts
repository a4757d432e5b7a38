import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'

/** How long a daemon holds a descriptor: for good, for a time, or as long as a process lives. */
export type DescriptorLease = 'forever' | { readonly ms: number } | { readonly pid: number }

/** A descriptor that a daemon holds for whoever asks. */
export interface HeldDescriptor {
  readonly name: string
  /** `socket`, `file` (a memfd is one too), `fifo`, `char`, `block`, `dir`, `anon` (an eventfd, say) or `other`. */
  readonly type: string
  /** Sockets: where it is bound, `udp://127.0.0.1:53`; null for all else. */
  readonly address: string | null
  /** Decimal; the same for every descriptor of the same object. */
  readonly inode: string
  /** Who put it; 0: in another PID namespace. */
  readonly pid: number
  /** ISO 8601. */
  readonly putAt: string
  /** When it goes; null: not by itself. */
  readonly until: string | null
  /** With which process it goes (0: in another PID namespace); null: with none. */
  readonly whilePid: number | null
  /** Who has claimed it for himself; null: nobody. */
  readonly claimedBy: number | null
}

/** An order to hold a descriptor. */
export interface DescriptorOrder {
  readonly name: string
  readonly fd: OwnedFd
  /** Of the process with which it goes. */
  readonly lifetime: OwnedFd | null
  /** After which it goes; null: not by itself. */
  readonly ms: number | null
  readonly replace: boolean
  readonly by: DescriptorUser
}

/** Who asks: one connection. */
export interface DescriptorUser {
  readonly pid: number
}

/** Who holds descriptors for others. What it throws is told to whoever asked. */
export interface DescriptorHolder {
  list(): HeldDescriptor[]
  /** Takes both descriptors, also when it throws. */
  put(order: DescriptorOrder): void
  /** A duplicate, owned by the caller. */
  claim(name: string, by: DescriptorUser, shared: boolean): OwnedFd
  release(name: string, by: DescriptorUser): void
  remove(name: string): void
  /** This user has gone: it claims nothing any more. */
  left(by: DescriptorUser): void
  /** Calls `changed` after each change; returns what ends that. */
  watch(changed: () => void): () => void
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
