import { fdLimits, isBeyond, type LentFd } from '../adapter.js'

/** A resource that this process or its machine lacks: why connecting to a server failed although the server is not at fault. */
export type Shortage = 'no-descriptors' | 'no-ports'

const SHORTAGES: Readonly<Record<string, Shortage>> = {
  EMFILE: 'no-descriptors',
  ENFILE: 'no-descriptors',
  ENOBUFS: 'no-descriptors',
  ENOMEM: 'no-descriptors',
  // All local ports are in use for connections to that server.
  EADDRNOTAVAIL: 'no-ports',
}

/** Returns the shortage that caused the error, or null. */
export function shortageOf(error: unknown): Shortage | null {
  const { code } = (error ?? {}) as Partial<NodeJS.ErrnoException>
  return (code !== undefined && SHORTAGES[code]) || null
}

/** How a process divides its descriptors between connections of clients and connections to servers. */
export interface DescriptorRoom {
  /** RLIMIT_NOFILE, or Infinity. */
  limit: number
  /** Maximum number of clients, if each of them also needs a connection to a server. */
  clients: number
  /** A client whose descriptor has this number or a higher one uses the reserve, because the kernel always assigns the lowest free number. */
  firstSpare: number
  /** How many descriptors are in reserve for connections to servers. */
  spare: number
}

export function descriptorRoom({ soft, open } = fdLimits()): DescriptorRoom {
  const limit = soft ?? Number.POSITIVE_INFINITY
  const spare = Math.max(16, Math.min(1024, Math.floor(limit / 16)))
  const clients = Math.max(1, Math.floor((limit - (open ?? 64) - 2 * spare) / 2))
  return { limit, clients, firstSpare: limit - spare, spare }
}

/** Reports whether a client's connection uses the reserve. `descriptor` is null if the connection has closed. */
export function takesSpare(descriptor: LentFd | null, { firstSpare }: DescriptorRoom): boolean {
  return descriptor !== null && isBeyond(descriptor, firstSpare)
}
