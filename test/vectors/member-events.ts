import type { MemberEvent, MemberState } from '../../src/handoff/member-machine.js'
import type { ToMember } from '../../src/handoff/messages.js'

/** Everything that can happen to a member of a daemon that is in this state, by the name that it has on the page. */
export function eventsFor({ epoch, wayBack, top }: MemberState): Map<string, MemberEvent> {
  const said = (message: ToMember, sealed = false): MemberEvent => ({ type: 'message', message, sealed })
  const plain = ['unquiesce', 'freeze', 'sealed', 'retire', 'resume', 'released', 'fenced', 'abort'] as const
  const next = Math.max(wayBack, top) + 1
  const bare = [
    'adopted',
    'refused',
    'lost',
    'deadline',
    'sealed',
    'silent',
    'heard',
    'leave',
    'drained',
  ] as const
  return new Map<string, MemberEvent>([
    ['message offer', said({ kind: 'offer', epoch: next, wayBack: next + 1, source: next - 1 })],
    ['message quiesce', said({ kind: 'quiesce', epoch: next })],
    ...plain.map(kind => [`message ${kind}`, said({ kind })] as const),
    ...[false, true].flatMap(sealed => {
      const when = sealed ? ', sealed' : ''
      return [
        [`message commit${when}`, said({ kind: 'commit', epoch }, sealed)],
        [`message reinstate${when}`, said({ kind: 'reinstate', epoch: next }, sealed)],
        [`fate dead${when}`, { type: 'fate', fate: 'dead', sealed }],
        [`fate alive${when}`, { type: 'fate', fate: 'alive', sealed }],
        [`reconnected${when}`, { type: 'reconnected', restarted: false, sealed }],
        [`reconnected, restarted${when}`, { type: 'reconnected', restarted: true, sealed }],
      ] as const
    }),
    ...bare.map(type => [type, { type }] as const),
    ['quiesced', { type: 'quiesced', epoch: next }],
    ['shared', { type: 'shared', top: next }],
    ['shared, of an older epoch', { type: 'shared', top: top - 1 }],
    ['begun', { type: 'begun', epoch }],
    ['begun, of another epoch', { type: 'begun', epoch: epoch - 1 }],
    ['failed carry', { type: 'failed', effect: 'carry', epoch }],
    ['failed write', { type: 'failed', effect: 'write', epoch }],
    ['failed carry, of another epoch', { type: 'failed', effect: 'carry', epoch: epoch - 1 }],
    ['failed write, of another epoch', { type: 'failed', effect: 'write', epoch: epoch - 1 }],
    ...(['accept', 'back', 'follow'] as const).map(
      effect => [`failed ${effect}`, { type: 'failed', effect }] as const,
    ),
  ])
}
