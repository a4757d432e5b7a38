import type { Logger } from '../../base/logger.js'
import { openWay, wayItems } from '../../connections/pair.js'
import type { Peer } from '../../holder/peer.js'
import { TAKES_CONNECTIONS } from '../../wire/versions.js'

const WAY_MS = 5_000

/** Whether a member can be given the connections of another: it is there, hears us, and is of a version that takes them. */
export function takesFrom(to: Peer | undefined, from: Peer): boolean {
  return to !== undefined && to !== from && to.link.open && to.capabilities.has(TAKES_CONNECTIONS)
}

/**
 * One that does not serve any more gives its connections to the one that does. Where that one is of a version that takes none it is told
 * so: it need not wait for one that would.
 */
export function openWayBetween(from: Peer, to: Peer | undefined, logger: Logger): void {
  if (to === undefined || to === from) return
  if (!to.capabilities.has(TAKES_CONNECTIONS)) from.link.tell({ moveRequest: { nobody: true } })
  if (!takesFrom(to, from)) return
  openWay({
    take: end => to.link.sendBundle(wayItems(end, from), WAY_MS),
    give: end => from.link.sendBundle(wayItems(end, to), WAY_MS),
  }).catch(error => logger.warn({ err: error }, 'no way for connections can be opened: they drain'))
}
