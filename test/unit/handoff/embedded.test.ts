import { describe, expect, it } from 'vitest'
import { type Embedded, type EmbeddedEvent, stepEmbedded } from '../../../src/handoff/embedded.js'
import { initialHolder } from '../../../src/handoff/holder-machine.js'
import { initialMember } from '../../../src/handoff/member-machine.js'
import type { ToHolder } from '../../../src/handoff/messages.js'
import { FIRST_MEMBER } from '../../exploration/first-member.js'

const JOINER = 1
const first: Embedded = { self: 0, member: FIRST_MEMBER, holder: initialHolder('holder', 0, 0) }
const says = (message: ToHolder): EmbeddedEvent => ({
  to: 'holder',
  event: { type: 'message', from: JOINER, message },
})
const join: EmbeddedEvent = { to: 'holder', event: { type: 'join', id: JOINER } }
const quiesced: EmbeddedEvent = { to: 'member', event: { type: 'quiesced', epoch: 1 } }
const handoff = [
  join,
  says({ kind: 'ready' }),
  quiesced,
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
    expect(effects(after([join]), says({ kind: 'ready' }))).toEqual(['quiesce'])
    expect(effects(after(handoff.slice(0, 2)), quiesced)).toEqual(['freeze', 'seal', 'tell sealed'])
  })

  it('stops accepting only after the successor has said Serving', () => {
    const committing = after(handoff.slice(0, 4))
    expect(committing.member.accepting).toBe(true)
    expect(effects(committing, handoff[4]!)).toEqual(['endWriting', 'stopAccepting'])
  })

  it('comes back: accepts, seals the other, carries over, writes; and then only turns the other away', () => {
    const back = after(handoff)
    expect(effects(back, { to: 'holder', event: { type: 'unhealthy' } })).toEqual([
      'failed',
      'accept',
      'seal',
      'carry',
      'write',
    ])
    const returning = after([{ to: 'holder', event: { type: 'unhealthy' } }], back)
    expect(returning.holder?.phase).toBe('returning')
    const begun: EmbeddedEvent = { to: 'member', event: { type: 'begun', epoch: 2 } }
    expect(effects(returning, begun)).toEqual(['tell fenced'])
    expect(after([begun], returning).holder?.phase).toBe('idle')
  })

  it('gives the right to the living successor if it cannot come back, and stands by again', () => {
    const returning = after([...handoff, { to: 'holder', event: { type: 'unhealthy' } }])
    const failed: EmbeddedEvent = { to: 'member', event: { type: 'failed', effect: 'carry', epoch: 2 } }
    expect(effects(returning, failed)).toEqual(['endWriting', 'make', 'seal', 'tell reinstate'])
    const regranted = after([failed, says({ kind: 'serving', epoch: 3 })], returning)
    expect(regranted.holder).toMatchObject({ phase: 'probation', owner: JOINER, standby: 0, unfit: [0] })
    expect(regranted.member.phase).toBe('standby')
    // Known now: it is not tried again while the other lives.
    expect(effects(regranted, { to: 'holder', event: { type: 'unhealthy' } })).toEqual([])
  })

  it('answers from what it has when it cannot come back and the successor is dead; the next version takes over', () => {
    const failed: EmbeddedEvent = { to: 'member', event: { type: 'failed', effect: 'carry', epoch: 2 } }
    const alone = after([...handoff, { to: 'holder', event: { type: 'dead', id: JOINER } }, failed])
    expect(alone.member).toMatchObject({ phase: 'unfit', accepting: true })
    expect(alone.holder).toMatchObject({ phase: 'idle', owner: 0, unfit: [0] })
    const next: EmbeddedEvent[] = [
      join,
      says({ kind: 'ready' }),
      { to: 'member', event: { type: 'quiesced', epoch: 3 } },
      says({ kind: 'prepared' }),
      says({ kind: 'serving', epoch: 3 }),
    ]
    expect(after(next, alone)).toMatchObject({ member: { phase: 'standby' }, holder: { phase: 'probation' } })
  })

  it('marks the release, and closes its listeners, before it says so: the version that serves closes last what it has dropped', () => {
    expect(effects(after(handoff), { to: 'holder', event: { type: 'healthy' } })).toEqual([
      'mark',
      'closeListeners',
      'drain',
      'tell released',
    ])
  })
})

describe('a successor that has become the holder', () => {
  it('does not take a stale word of its former elder for its own', () => {
    const successor: Embedded = {
      self: 0,
      member: { ...initialMember('holder'), phase: 'standby', holds: true, epoch: 1, top: 4, link: 'local' },
      holder: { ...initialHolder('holder', JOINER, 3, 4), phase: 'probation', standby: 0 },
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
