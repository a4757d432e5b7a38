import type net from 'node:net'

/** What a server keeps of the options that it was made with, of those that say how it takes a connection. */
export interface AcceptOptions {
  readonly allowHalfOpen: boolean
  readonly pauseOnConnect: boolean
}

export function acceptOptionsOf(server: net.Server): AcceptOptions {
  const { allowHalfOpen = false, pauseOnConnect = false } = server as unknown as Partial<AcceptOptions>
  return { allowHalfOpen, pauseOnConnect }
}
