import type { HolderState } from '../../handoff/holder-machine.js'
import type { Peer } from '../../holder/peer.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentShelf } from '../../holder/segment-shelf.js'
import { hasEnded, inspect } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'

/** What of a service only the daemon has: when it ends, clients are refused and the state is gone. */
export interface HeldAlone {
  /** Empty: of no service, but put by operators (`fd-broker fd`). */
  readonly service: string
  /** Name and address. */
  readonly listeners: readonly string[]
  /** Names of other descriptors. */
  readonly held: readonly string[]
  /** Bytes of the log; acknowledged changes that a state file need not have yet. */
  readonly stateBytes: number
  /** The members' file, to which the state is written before it is dropped; null: they have told none, and it is lost. */
  readonly stateFile: string | null
}

/** Null: a living process that serves, is to serve or stands by has it all too; or there is nothing. */
export function heldAlone(known: {
  service: string
  machine: HolderState
  peer: (id: number) => Peer | undefined
  registry: Registry
  shelf: SegmentShelf
  stateFile: string
}): HeldAlone | null {
  const { service, machine, peer, registry, shelf } = known
  const stateFile = known.stateFile === '' ? null : known.stateFile
  const { owner, joiner, standby, phase } = machine
  // Whoever a restarted daemon waits for has what the service has; the daemon has nothing yet.
  if (phase === 'rebuilding' || [owner, joiner, standby].some(id => lives(peer(id)))) return null
  const { entries } = registry
  const identities = inspect(entries.map(({ fd }) => fd))
  const listeners = entries.flatMap(({ name, role }, i) =>
    role === 'listener' ? [`${name} ${formatAddress(identities[i]!)}`] : [],
  )
  const held = entries.filter(({ role }) => role === 'named').map(({ name }) => name)
  const stateBytes = shelf.all.reduce((sum, segment) => sum + segment.size() - segment.start, 0)
  return listeners.length + held.length + stateBytes > 0
    ? { service, listeners, held, stateBytes, stateFile }
    : null
}

/** Who can come back in the place of the member that serves, and can be told to. */
export function standbyOf(
  { phase, standby, unfit }: HolderState,
  peer: (id: number) => Peer | undefined,
): Peer | undefined {
  const other = phase === 'probation' && !unfit.includes(standby) ? peer(standby) : undefined
  return other?.link.open ? other : undefined
}

/** Whether the peer lives: its death may not have been told yet. */
function lives(peer: Peer | undefined): boolean {
  return peer !== undefined && (peer.pidfd === null || !hasEnded(peer.pidfd))
}
