import { type Dial, dialSocket } from '../../relay/index.js'
import type { ServerDestination } from './upstream.js'

/** Connects to a server; with `keepAlive.connections: 0` for one request only. */
export const dialServer: Dial = (destination, owner, tally) => {
  const stream = dialSocket(destination, owner, tally)
  const { keep = true } = destination as Partial<ServerDestination>
  return keep ? stream : Object.defineProperty(stream, 'reusable', { value: false })
}
