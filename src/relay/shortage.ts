import { fdLimits, isBeyond, type LentFd } from '../adapter.js'

/** A resource that this process, or its machine, lacks: not the server's fault. */
export type Shortage = 'no-descriptors' | 'no-ports'

const SHORTAGES: Readonly<Record<string, Shortage>> = {
  EMFILE: 'no-descriptors',
  ENFILE: 'no-descriptors',
  ENOBUFS: 'no-descriptors',
  ENOMEM: 'no-descriptors',
  // Every local port is in use towards that server.
  EADDRNOTAVAIL: 'no-ports',
}

/** Null: another error. */
export function shortageOf(error: unknown): Shortage | null {
  const { code } = (error ?? {}) as Partial<NodeJS.ErrnoException>
  return (code !== undefined && SHORTAGES[code]) || null
}

/** The descriptors that clients' connections may take. */
export interface DescriptorRoom {
  /** RLIMIT_NOFILE, or Infinity. */
  limit: number
  /** Clients, if each needs a connection to a server too. */
  clients: number
  /** A client whose descriptor is this number or above uses the reserve for servers: the kernel gives the lowest free number. */
  firstSpare: number
  /** Descriptors neither for clients nor open at the start. */
  spare: number
}

export function descriptorRoom({ soft, open } = fdLimits()): DescriptorRoom {
  const limit = soft ?? Number.POSITIVE_INFINITY
  const spare = Math.max(16, Math.min(1024, Math.floor(limit / 16)))
  const clients = Math.max(1, Math.floor((limit - (open ?? 64) - 2 * spare) / 2))
  return { limit, clients, firstSpare: limit - spare, spare }
}

/** Reports whether a client's connection uses the reserve. Null: it has no descriptor (any more). */
export function takesSpare(descriptor: LentFd | null, { firstSpare }: DescriptorRoom): boolean {
  return descriptor !== null && isBeyond(descriptor, firstSpare)
}
