import { describe, expect, it } from 'vitest'
import type { Scope, ToMember } from '../../src/protocol/conversation.js'
import {
  initialMember,
  type MemberEvent,
  type MemberState,
  stepMember,
} from '../../src/protocol/member-machine.js'

const hears = (message: ToMember, sealed = false): MemberEvent => ({ type: 'message', message, sealed })
const offer = hears({ kind: 'offer', epoch: 1, wayBack: 2, source: 0 })
const adopted: MemberEvent = { type: 'adopted' }
const commit = hears({ kind: 'commit', epoch: 1 })
const lost: MemberEvent = { type: 'lost' }
const fate = (what: 'alive' | 'dead', sealed = false): MemberEvent => ({ type: 'fate', fate: what, sealed })

function after(scope: Scope, events: readonly MemberEvent[]): MemberState {
  return events.reduce((before, event) => stepMember(before, event).state, initialMember(scope))
}

function effects(state: MemberState, event: MemberEvent): string[] {
  return stepMember(state, event).effects.map(effect => {
    if (effect.type === 'send') return `send ${effect.message.kind}`
    if (effect.type === 'write') return `write ${effect.epoch}`
    return effect.type
  })
}

describe('a joiner', () => {
  it('accepts before it writes, and says Serving last', () => {
    expect(effects(after('holder', [offer, adopted]), commit)).toEqual([
      'accept',
      'carry',
      'write 1',
      'send serving',
    ])
  })

  it('does not begin in a segment that was sealed to turn it away, but asks whether its elder lives', () => {
    const ready = after('holder', [offer, adopted])
    expect(effects(ready, hears({ kind: 'commit', epoch: 1 }, true))).toEqual(['judge'])
    expect(effects(ready, fate('alive', true))).toEqual(['closeListeners', 'send abort', 'exit'])
  })

  it('serves when its elder is dead, in a segment of its own if the one it was given is sealed', () => {
    const ready = after('holder', [offer, adopted, lost])
    expect(effects(ready, fate('dead'))).toEqual(['accept', 'carry', 'write 1', 'becomeHolder'])
    expect(effects(ready, fate('dead', true))).toEqual([
      'accept',
      'seal',
      'make',
      'carry',
      'write 3',
      'becomeHolder',
    ])
  })

  it('whose elder dies before the application is ready looks at the seal again when it is', () => {
    const heir = after('holder', [offer, lost, fate('dead'), adopted])
    expect(effects(after('holder', [offer, lost, fate('dead')]), adopted)).toEqual(['judge'])
    expect(effects(heir, fate('dead', true))).toContain('write 3')
  })

  it('takes an Abort for an order only while its elder lives', () => {
    for (const events of [[offer], [offer, adopted]]) {
      expect(effects(after('holder', events), hears({ kind: 'abort' }))).toEqual(['judge'])
    }
  })

  it('that has nothing yet just leaves', () => {
    expect(effects(after('holder', []), lost)).toEqual(['exit'])
  })
})

describe('a successor after Commit', () => {
  const serving = after('holder', [offer, adopted, commit, lost])

  it('takes the end of the channel of a living elder for no abort', () => {
    expect(stepMember(serving, fate('alive')).state).toBe(serving)
  })

  it('stops when its segment is sealed by a living elder, and inherits from a dead one', () => {
    expect(effects(serving, { type: 'sealed' })).toEqual(['judge'])
    expect(effects(serving, fate('alive', true))).toEqual([
      'endWriting',
      'stopAccepting',
      'closeListeners',
      'drain',
    ])
    expect(effects(serving, fate('dead', true))).toEqual(['seal', 'make', 'carry', 'write 3', 'becomeHolder'])
  })

  it('becomes the holder when it is released', () => {
    expect(effects(serving, hears({ kind: 'released' }))).toEqual(['becomeHolder'])
  })
})

describe("a daemon's member", () => {
  const standby = after('member', [offer, adopted, commit, hears({ kind: 'retire' })])

  it('accepts without its daemon, and never writes', () => {
    for (const event of [fate('dead'), { type: 'silent' } as const]) {
      expect(effects(after('member', [offer, adopted]), event)).toEqual(['accept'])
      expect(effects(standby, event)).toEqual(['accept'])
    }
  })

  it('connects again and says where it stands and what it knows', () => {
    expect(effects(standby, lost)).toEqual(['reconnect'])
    const down = stepMember(standby, lost).state
    const step = stepMember(down, { type: 'reconnected', restarted: false, sealed: true })
    expect(step.effects).toEqual([
      { type: 'send', message: { kind: 'back', role: 'standby', epoch: 1, top: 2, sealed: true } },
    ])
  })

  it('says the highest epoch that was shared with it', () => {
    const told = stepMember(standby, { type: 'shared', top: 6 }).state
    expect(told.top).toBe(6)
    expect(stepMember(told, { type: 'shared', top: 4 }).state).toBe(told)
  })

  it('leaves its state alone at a message that it does not know', () => {
    const unknown = hears({ kind: 'x-later' } as unknown as ToMember)
    expect(stepMember(standby, unknown)).toEqual({ state: standby, effects: [] })
  })

  it('ignores what comes again, or too late', () => {
    expect(stepMember(standby, commit).state).toBe(standby)
    expect(stepMember(standby, offer).state).toBe(standby)
    expect(stepMember(standby, hears({ kind: 'reinstate', epoch: 2 }, true)).state).toBe(standby)
  })
})
