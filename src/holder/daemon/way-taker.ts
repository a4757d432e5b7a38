import { TAKES_CONNECTIONS } from '../../protocol/versions.js'
import type { Peer } from '../peer.js'

/** Whether a member can be given the connections of another: it is there, hears us, and is of a version that takes them. */
export function takesFrom(to: Peer | undefined, from: Peer): to is Peer {
  return to !== undefined && to !== from && to.link.open && to.capabilities.has(TAKES_CONNECTIONS)
}
