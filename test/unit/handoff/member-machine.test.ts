import { describe, expect, it } from 'vitest'
import {
  initialMember,
  type MemberEvent,
  type MemberState,
  stepMember,
} from '../../../src/handoff/member-machine.js'
import type { Scope, ToMember } from '../../../src/handoff/messages.js'
import { untyped } from '../../fixtures/untyped.js'

const hears = (message: ToMember, sealed = false): MemberEvent => ({ type: 'message', message, sealed })
const offer = hears({ kind: 'offer', epoch: 1, wayBack: 2, source: 0 })
const adopted: MemberEvent = { type: 'adopted' }
const commit = hears({ kind: 'commit', epoch: 1 })
const lost: MemberEvent = { type: 'lost' }
const begun = (epoch: number): MemberEvent => ({ type: 'begun', epoch })
const accept: MemberEvent = { type: 'failed', effect: 'accept' }
const carry = (epoch: number): MemberEvent => ({ type: 'failed', effect: 'carry', epoch })
const write = (epoch: number): MemberEvent => ({ type: 'failed', effect: 'write', epoch })
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
  it('accepts before it writes, and says Serving when it does', () => {
    expect(effects(after('holder', [offer, adopted]), commit)).toEqual(['accept', 'carry', 'write 1'])
    const beginning = after('holder', [offer, adopted, commit])
    expect(beginning.phase).toBe('beginning')
    expect(effects(beginning, begun(1))).toEqual(['send serving'])
    expect(stepMember(beginning, begun(2)).state).toBe(beginning)
  })

  it('keeps to the first Offer: a second one changes neither its epoch nor its way back', () => {
    const holding = after('holder', [offer])
    expect(holding).toMatchObject({ holds: true, epoch: 1, wayBack: 2 })
    const again = stepMember(holding, hears({ kind: 'offer', epoch: 3, wayBack: 4, source: 1 }))
    expect(again).toEqual({ state: holding, effects: [] })
  })

  it('says that it cannot accept, read or write, and leaves when the elder has said that it serves again', () => {
    const beginning = after('holder', [offer, adopted, commit])
    for (const failed of [accept, carry(1), write(1)]) {
      expect(effects(beginning, failed)).toEqual(['endWriting', 'send unfit'])
      const unfit = stepMember(beginning, failed).state
      expect(unfit).toMatchObject({ phase: 'unfit', unfit: true })
      expect(effects(unfit, hears({ kind: 'fenced' }, true))).toEqual(['judge'])
      const told = stepMember(unfit, hears({ kind: 'fenced' }, true)).state
      expect(effects(told, fate('alive', true))).toEqual([
        'endWriting',
        'stopAccepting',
        'closeListeners',
        'send gone',
        'drain',
      ])
    }
  })

  it('gives up if it cannot read the tail before Commit, unless its elder is dead', () => {
    const ready = after('holder', [offer, adopted, hears({ kind: 'sealed' })])
    expect(effects(ready, carry(1))).toEqual(['judge'])
    expect(effects(after('member', [offer, adopted]), carry(1))).toEqual([
      'closeListeners',
      'send abort',
      'exit',
    ])
  })

  it('takes no failure of an earlier try for one of the present', () => {
    const again = after('holder', [offer, adopted, commit, hears({ kind: 'reinstate', epoch: 3 })])
    for (const failed of [carry(1), write(1)]) expect(stepMember(again, failed).state).toBe(again)
  })

  it('does not begin in a segment that was sealed to turn it away, but asks whether its elder lives', () => {
    const ready = after('holder', [offer, adopted])
    expect(effects(ready, hears({ kind: 'commit', epoch: 1 }, true))).toEqual(['judge'])
    expect(effects(ready, fate('alive', true))).toEqual(['closeListeners', 'send abort', 'exit'])
  })

  it('serves when its elder is dead, in a segment of its own if the one it was given is sealed', () => {
    const ready = after('holder', [offer, adopted, lost])
    expect(effects(ready, fate('dead'))).toEqual(['becomeHolder', 'accept', 'carry', 'write 1'])
    expect(effects(ready, fate('dead', true))).toEqual([
      'becomeHolder',
      'accept',
      'seal',
      'make',
      'carry',
      'write 3',
    ])
  })

  it('looks at the seal again when the application is ready, if its elder died before', () => {
    const heir = after('holder', [offer, lost, fate('dead'), adopted])
    expect(effects(after('holder', [offer, lost, fate('dead')]), adopted)).toEqual(['judge'])
    expect(effects(heir, fate('dead', true))).toContain('write 3')
  })

  it('takes an Abort for an order only while its elder lives', () => {
    for (const events of [[offer], [offer, adopted]]) {
      expect(effects(after('holder', events), hears({ kind: 'abort' }))).toEqual(['judge'])
    }
  })

  it('just leaves if it has nothing yet', () => {
    expect(effects(after('holder', []), lost)).toEqual(['exit'])
  })
})

describe('a successor after Commit', () => {
  const serving = after('holder', [offer, adopted, commit, begun(1), lost])

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
    expect(effects(serving, fate('dead', true))).toEqual(['becomeHolder', 'seal', 'make', 'carry', 'write 3'])
  })

  it('leaves if it cannot write when it has lost the channel of a living elder, and inherits from a dead one', () => {
    const beginning = [offer, adopted, commit]
    expect(effects(after('holder', [...beginning, lost]), write(1))).toEqual(['endWriting', 'judge'])
    for (const events of [
      [...beginning, lost, write(1)],
      [...beginning, write(1), lost],
    ]) {
      const unfit = after('holder', events)
      expect(effects(unfit, fate('alive'))).toEqual([
        'endWriting',
        'stopAccepting',
        'closeListeners',
        'drain',
      ])
      expect(effects(unfit, fate('dead'))).toEqual(['becomeHolder', 'carry', 'write 1'])
    }
    // A daemon hears it in its Back.
    expect(effects(after('member', [...beginning, lost]), write(1))).toEqual(['endWriting'])
    expect(effects(after('member', [...beginning, lost, write(1)]), fate('alive'))).toEqual([])
  })

  it('waits for the word of an elder that it hears, which may give the right back to it', () => {
    const heard = after('holder', [offer, adopted, commit, begun(1)])
    expect(stepMember(heard, { type: 'sealed' })).toEqual({ state: heard, effects: [] })
    expect(stepMember(heard, fate('alive', true))).toEqual({ state: heard, effects: [] })
    expect(effects(heard, hears({ kind: 'reinstate', epoch: 3 }))).toEqual(['carry', 'write 3'])
  })

  it('writes no more if it is frozen and wants to go', () => {
    for (const scope of ['holder', 'member'] as const) {
      const frozen = after(scope, [offer, adopted, commit, begun(1), hears({ kind: 'freeze' })])
      expect(frozen.phase).toBe('frozen')
      expect(effects(frozen, { type: 'leave' })[0]).toBe('endWriting')
    }
  })

  it('becomes the holder when it is released', () => {
    expect(effects(serving, hears({ kind: 'released' }))).toEqual(['becomeHolder'])
  })
})

describe('a process that stands by', () => {
  const standby = after('holder', [offer, adopted, commit, begun(1), hears({ kind: 'retire' })])

  it('says once, as soon as it knows, that it cannot come back', () => {
    const unfit = stepMember(standby, { type: 'failed', effect: 'follow' })
    expect(unfit.effects).toEqual([{ type: 'send', message: { kind: 'unfit', epoch: 1 } }])
    expect(stepMember(unfit.state, { type: 'failed', effect: 'follow' }).effects).toEqual([])
  })

  it('tries all the same when it is told to, and may be told again', () => {
    const unfit = after('holder', [])
    expect(unfit.unfit).toBe(false)
    const back = stepMember(standby, hears({ kind: 'reinstate', epoch: 2 })).state
    const failed = stepMember(back, accept).state
    expect(failed).toMatchObject({ phase: 'unfit', accepting: false })
    expect(effects(failed, hears({ kind: 'reinstate', epoch: 5 }))).toEqual(['accept', 'carry', 'write 5'])
    expect(effects(failed, hears({ kind: 'freeze' }))).toEqual(['send frozen'])
    expect(effects(failed, hears({ kind: 'resume' }))).toEqual(['accept'])
    expect(effects(failed, hears({ kind: 'retire' }))).toEqual(['endWriting', 'stopAccepting'])
  })
})

describe('a process that stands by and is to accept in place of one that is silent', () => {
  const standby = after('holder', [offer, adopted, commit, begun(1), hears({ kind: 'retire' })])
  const accepting = stepMember(standby, hears({ kind: 'resume' })).state

  it('does so once, until it is told to stop', () => {
    expect(effects(standby, hears({ kind: 'resume' }))).toEqual(['accept'])
    expect(effects(accepting, hears({ kind: 'resume' }))).toEqual([])
    expect(effects(accepting, hears({ kind: 'retire' }))).toEqual(['stopAccepting'])
    expect(effects(standby, hears({ kind: 'retire' }))).toEqual([])
  })

  it('and cannot, says so and stands by as before', () => {
    expect(effects(accepting, accept)).toEqual(['stopAccepting', 'send unfit'])
    const { phase, accepting: accepts, unfit } = stepMember(accepting, accept).state
    expect([phase, accepts, unfit]).toEqual(['standby', false, true])
    // An accept of a try that is over.
    expect(stepMember(standby, accept).state).toBe(standby)
    const serving = after('holder', [offer, adopted, commit, begun(1)])
    expect(stepMember(serving, accept).state).toBe(serving)
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

  it('says Back again, over a new channel, when it did not get through', () => {
    const back = after('member', [
      offer,
      adopted,
      commit,
      hears({ kind: 'retire' }),
      lost,
      { type: 'reconnected', restarted: true, sealed: true },
    ])
    const step = stepMember(back, { type: 'failed', effect: 'back' })
    expect(step.effects).toEqual([{ type: 'reconnect' }])
    expect(step.state.link).toBe('down')
  })

  it('comes back as one that accepts and does not write, when it is beginning or cannot', () => {
    const beginning = after('member', [offer, adopted, commit, lost])
    const unfit = after('member', [offer, adopted, commit, write(1), lost])
    const said = (state: MemberState) =>
      stepMember(state, { type: 'reconnected', restarted: false, sealed: false }).effects[0]
    const message = { kind: 'back', role: 'orphan', epoch: 1, top: 2, sealed: false }
    expect(said(beginning)).toEqual({ type: 'send', message })
    expect(said(unfit)).toEqual({ type: 'send', message: { ...message, unfit: true } })
  })

  it('says the highest epoch that was shared with it', () => {
    const told = stepMember(standby, { type: 'shared', top: 6 }).state
    expect(told.top).toBe(6)
    expect(stepMember(told, { type: 'shared', top: 4 }).state).toBe(told)
  })

  it('leaves its state alone at a message that it does not know', () => {
    const unknown = hears(untyped<ToMember>({ kind: 'x-later' }))
    expect(stepMember(standby, unknown)).toEqual({ state: standby, effects: [] })
  })

  it('ignores what comes again, or too late', () => {
    expect(stepMember(standby, commit).state).toBe(standby)
    expect(stepMember(standby, offer).state).toBe(standby)
    expect(stepMember(standby, hears({ kind: 'reinstate', epoch: 2 }, true)).state).toBe(standby)
  })
})

describe('a member that is asked to end its work', () => {
  const serving = after('member', [offer, adopted, commit, begun(1)])
  const quiesce = hears({ kind: 'quiesce', epoch: 3 })

  it('says so when it has, and begins again when it is told that the handoff is off', () => {
    expect(effects(serving, quiesce)).toEqual(['quiesce'])
    expect(effects(serving, { type: 'quiesced', epoch: 3 })).toEqual(['send quiesced'])
    expect(effects(serving, hears({ kind: 'unquiesce' }))).toEqual(['unquiesce'])
  })

  it('begins again when the daemon is dead, unless its segment was sealed: then another may serve', () => {
    const alone = stepMember(serving, lost).state
    expect(effects(alone, fate('dead'))).toEqual(['unquiesce'])
    expect(effects(alone, fate('dead', true))).toEqual([])
  })

  it('does not answer for one that serves no more', () => {
    const standby = stepMember(serving, hears({ kind: 'retire' })).state
    expect(effects(standby, quiesce)).toEqual([])
    expect(effects(standby, { type: 'quiesced', epoch: 3 })).toEqual([])
  })
})
