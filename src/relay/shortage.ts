import { fdLimits, isBeyond, type LentFd } from '../adapter.js'

/** A resource that this process, or its machine, lacks: no server is to be blamed. */
export type Shortage = 'no-descriptors' | 'no-ports'

const SHORTAGES: Readonly<Record<string, Shortage>> = {
  EMFILE: 'no-descriptors',
  ENFILE: 'no-descriptors',
  ENOBUFS: 'no-descriptors',
  ENOMEM: 'no-descriptors',
  // Every port of ours is in use towards that server.
  EADDRNOTAVAIL: 'no-ports',
}

/** Null: it was something else that failed. */
export function shortageOf(error: unknown): Shortage | null {
  const { code } = (error ?? {}) as Partial<NodeJS.ErrnoException>
  return (code !== undefined && SHORTAGES[code]) || null
}

/** How many descriptors connections of clients may take. */
export interface DescriptorRoom {
  /** RLIMIT_NOFILE; Infinity where there is none. */
  limit: number
  /** Clients, if each has a connection to a server too. */
  clients: number
  /** A client whose descriptor has this number, or a higher one, takes what servers of others need: the kernel gives the lowest. */
  firstSpare: number
  /** Descriptors that are neither for clients nor for what is open now. */
  spare: number
}

export function descriptorRoom({ soft, open } = fdLimits()): DescriptorRoom {
  const limit = soft ?? Number.POSITIVE_INFINITY
  const spare = Math.max(16, Math.min(1024, Math.floor(limit / 16)))
  const clients = Math.max(1, Math.floor((limit - (open ?? 64) - 2 * spare) / 2))
  return { limit, clients, firstSpare: limit - spare, spare }
}

/** A client's connection for which there is no room; null: it has no descriptor (any more). */
export function takesSpare(descriptor: LentFd | null, { firstSpare }: DescriptorRoom): boolean {
  return descriptor !== null && isBeyond(descriptor, firstSpare)
}
