import { describe, expect, it } from 'vitest'
import type { ToHolder } from '../../src/protocol/conversation.js'
import { type Embedded, type EmbeddedEvent, stepEmbedded } from '../../src/protocol/embedded.js'
import { initialHolder } from '../../src/protocol/holder-machine.js'
import { firstMember, initialMember } from '../../src/protocol/member-machine.js'

const JOINER = 1
const first: Embedded = { self: 0, member: firstMember(0), holder: initialHolder('holder', 0, 0) }
const says = (message: ToHolder): EmbeddedEvent => ({
  to: 'holder',
  event: { type: 'message', from: JOINER, message },
})
const join: EmbeddedEvent = { to: 'holder', event: { type: 'join', id: JOINER } }
const handoff = [
  join,
  says({ kind: 'ready' }),
  says({ kind: 'prepared' }),
  says({ kind: 'serving', epoch: 1 }),
]

function after(events: readonly EmbeddedEvent[], state = first): Embedded {
  return events.reduce((before, event) => stepEmbedded(before, event, () => false).state, state)
}
function effects(state: Embedded, event: EmbeddedEvent): string[] {
  return stepEmbedded(state, event, () => false).effects.map(({ effect }) =>
    effect.type === 'tell' || effect.type === 'send' ? `${effect.type} ${effect.message.kind}` : effect.type,
  )
}

describe('a process that holds and serves', () => {
  it('freezes itself, seals and tells the joiner in one step', () => {
    expect(effects(after([join]), says({ kind: 'ready' }))).toEqual(['freeze', 'seal', 'tell sealed'])
  })

  it('stops accepting only after the successor has said Serving', () => {
    const committing = after(handoff.slice(0, 3))
    expect(committing.member.accepting).toBe(true)
    expect(effects(committing, handoff[3]!)).toEqual(['endWriting', 'stopAccepting'])
  })

  it('comes back in one step: accepts, seals the other, carries over, writes, fences', () => {
    const back = after(handoff)
    expect(effects(back, { to: 'holder', event: { type: 'unhealthy' } })).toEqual([
      'failed',
      'accept',
      'seal',
      'carry',
      'write',
      'tell fenced',
    ])
    expect(after([{ to: 'holder', event: { type: 'unhealthy' } }], back).holder?.phase).toBe('idle')
  })

  it('marks the release before it says so, and closes its listeners last', () => {
    expect(effects(after(handoff), { to: 'holder', event: { type: 'healthy' } })).toEqual([
      'mark',
      'tell released',
      'closeListeners',
      'drain',
    ])
  })
})

describe('a successor that has become the holder', () => {
  it('does not take a stale word of its former elder for its own', () => {
    const successor: Embedded = {
      self: 0,
      member: { ...initialMember('holder'), phase: 'standby', holds: true, epoch: 1, top: 4, link: 'local' },
      holder: { ...initialHolder('holder', JOINER, 3, 4), phase: 'probation', elder: 0 },
    }
    for (const kind of ['released', 'fenced', 'abort'] as const) {
      const event: EmbeddedEvent = {
        to: 'member',
        event: { type: 'message', message: { kind }, sealed: false },
      }
      expect(stepEmbedded(successor, event, () => false)).toEqual({ state: successor, effects: [] })
    }
  })
})
