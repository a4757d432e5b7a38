import { describe, expect, it } from 'vitest'
import {
  type HolderEvent,
  type HolderState,
  initialHolder,
  restartedHolder,
  stepHolder,
} from '../../../src/handoff/holder-machine.js'
import { NO_EPOCH, NOBODY, type Role, type ToHolder } from '../../../src/handoff/messages.js'
import { WITHOUT_SEALS } from '../../../src/handoff/rules.js'
import { untyped } from '../../fixtures/untyped.js'
import fc from '../../lanes/generated.js'

const OWNER = 0
const JOINER = 1

const says = (from: number, message: ToHolder): HolderEvent => ({ type: 'message', from, message })

function after(
  events: readonly HolderEvent[],
  state: HolderState = initialHolder('member', OWNER, 0),
): HolderState {
  return events.reduce((before, event) => stepHolder(before, event).state, state)
}

/** Effects in a form that reads like the conversation. */
function effects(state: HolderState, event: HolderEvent): string[] {
  return stepHolder(state, event).effects.map(effect => {
    switch (effect.type) {
      case 'tell':
        return `tell ${effect.to} ${effect.message.kind}${'epoch' in effect.message ? ` ${effect.message.epoch}` : ''}`
      case 'seal':
        return `seal ${effect.from}..${effect.below - 1}`
      case 'make':
        return `make ${effect.epochs.join(' ')}`
      case 'mark':
        return `mark ${effect.epoch}`
      case 'refuse':
        return `refuse ${effect.id}: ${effect.because.is}`
      default:
        return `failed ${effect.id} in ${effect.phase}`
    }
  })
}

const join: HolderEvent = { type: 'join', id: JOINER }
const cancel: HolderEvent = { type: 'cancel' }
const quiescing = [join, says(JOINER, { kind: 'ready' })]
const freezing = [...quiescing, says(OWNER, { kind: 'quiesced', epoch: 1 })]
const committing = [...freezing, says(OWNER, { kind: 'frozen' }), says(JOINER, { kind: 'prepared' })]
const upTo = {
  quiescing,
  freezing,
  committing,
  probation: [...committing, says(JOINER, { kind: 'serving', epoch: 1 })],
} satisfies Record<string, HolderEvent[]>

describe('the holder, when all goes well', () => {
  it('makes both segments before the Offer that names them', () => {
    expect(effects(after([]), join)).toEqual(['make 1 2', 'tell 1 offer 1'])
  })

  it('seals the owner before the joiner is told to read its tail, and long before Commit', () => {
    expect(effects(after(upTo.freezing), says(OWNER, { kind: 'frozen' }))).toEqual([
      'seal 0..0',
      'tell 1 sealed',
    ])
    expect(after(upTo.committing).phase).toBe('committing')
  })

  it('retires the owner only when the other says that it serves', () => {
    expect(effects(after(upTo.committing), says(JOINER, { kind: 'serving', epoch: 1 }))).toEqual([
      'tell 0 retire',
    ])
  })

  it('releases the elder and is ready for the next when the elder is gone', () => {
    const released = after([...upTo.probation, { type: 'healthy' }])
    expect(effects(released, { type: 'join', id: 2 })).toEqual(['refuse 2: bound'])
    expect(effects(after([says(OWNER, { kind: 'gone' })], released), { type: 'join', id: 2 })).toEqual([
      'make 3 4',
      'tell 2 offer 3',
    ])
  })
})

describe('the holder, before it freezes the owner', () => {
  const quiescing = after(upTo.quiescing)

  it('has it end its work, and waits for the answer of this handoff alone', () => {
    expect(effects(after([join]), says(JOINER, { kind: 'ready' }))).toEqual(['tell 0 quiesce 1'])
    expect(effects(quiescing, says(OWNER, { kind: 'quiesced', epoch: 3 }))).toEqual([])
    expect(effects(quiescing, says(JOINER, { kind: 'quiesced', epoch: 1 }))).toEqual([])
    expect(effects(quiescing, says(OWNER, { kind: 'quiesced', epoch: 1 }))).toEqual(['tell 0 freeze'])
  })

  it.each([
    ['its time is over', { type: 'deadline' }],
    ['its channel is lost', { type: 'lost', id: OWNER }],
  ] as const)('goes on when %s', (_what, event) => {
    expect(effects(quiescing, event)).toEqual(['tell 0 freeze'])
  })

  it('gives the right to the joiner when it is dead', () => {
    expect(effects(quiescing, { type: 'dead', id: OWNER })).toEqual(['seal 0..0', 'tell 1 sealed'])
  })

  it('does not ask one that has no channel', () => {
    const down = after([join, { type: 'lost', id: OWNER }])
    expect(effects(down, says(JOINER, { kind: 'ready' }))).toEqual(['tell 0 freeze'])
  })

  it('has it begin again when the handoff is off, also when it did not hear of that', () => {
    const off = says(JOINER, { kind: 'abort' })
    expect(effects(quiescing, off)).toContain('tell 0 unquiesce')
    const idle = after([off, { type: 'lost', id: OWNER }], quiescing)
    const back = { kind: 'back', role: 'serving', epoch: 0, sealed: false } as const
    expect(effects(idle, says(OWNER, back))).toEqual(['tell 0 unquiesce'])
  })
})

describe('the holder, when something fails', () => {
  it('seals the segment of a joiner that gives up before Commit and leaves the owner alone', () => {
    expect(effects(after([join]), says(JOINER, { kind: 'abort' }))).toEqual([
      'failed 1 in offering',
      'seal 1..1',
      'seal 2..2',
      'tell 1 abort',
    ])
  })

  it('lets the next one join at once when a joiner said that it gives up, though its process may live on', () => {
    const gaveUp = after([join, says(JOINER, { kind: 'abort' })])
    expect(effects(gaveUp, { type: 'join', id: 2 })).toEqual(['make 3 4', 'tell 2 offer 3'])
  })

  it('lets nobody join after its own deadline until the late joiner is gone', () => {
    const late = after([join, { type: 'deadline' }])
    expect(effects(late, { type: 'join', id: 2 })).toEqual(['refuse 2: bound'])
    expect(effects(after([says(JOINER, { kind: 'abort' })], late), { type: 'join', id: 2 })).toEqual([
      'make 3 4',
      'tell 2 offer 3',
    ])
  })

  it('gives a frozen owner its way back before it turns to the joiner', () => {
    expect(effects(after(upTo.freezing), { type: 'lost', id: JOINER })).toEqual([
      'failed 1 in freezing',
      'seal 0..1',
      'tell 0 reinstate 2',
    ])
  })

  it('seals an owner that does not say Frozen', () => {
    expect(effects(after(upTo.freezing), { type: 'deadline' })).toEqual(['seal 0..0', 'tell 1 sealed'])
  })

  it('on the way back lets the elder accept first, seals then, and fences only after the other has said Serving', () => {
    const probation = after(upTo.probation)
    expect(effects(probation, { type: 'unhealthy' })).toEqual([
      'failed 1 in probation',
      'tell 0 resume',
      'seal 0..1',
      'tell 0 reinstate 2',
    ])
    const returning = after([{ type: 'unhealthy' }], probation)
    expect(effects(returning, says(OWNER, { kind: 'serving', epoch: 2 }))).toEqual(['tell 1 fenced'])
  })

  it('gives the right to the other when the one that was to come back stays silent', () => {
    const returning = after([...upTo.probation, { type: 'unhealthy' }])
    expect(effects(returning, { type: 'deadline' })).toEqual(['make 3 4', 'seal 0..2', 'tell 1 reinstate 3'])
  })

  it('gives the right to nobody that cannot hear of it', () => {
    const returning = after([...upTo.probation, { type: 'unhealthy' }, { type: 'lost', id: JOINER }])
    expect(stepHolder(returning, { type: 'deadline' })).toEqual({ state: returning, effects: [] })
  })

  it('lets a joiner come in place of an owner that stays silent, and fences it as any other', () => {
    const given = after([...upTo.probation, { type: 'dead', id: JOINER }])
    const silent = after([{ type: 'deadline' }], given)
    expect(silent).toMatchObject({ phase: 'idle', owner: OWNER, joiner: NOBODY, epoch: 2, bound: [] })
    const joined = after([{ type: 'join', id: 2 }, says(2, { kind: 'ready' }), { type: 'deadline' }], silent)
    expect(effects(joined, { type: 'deadline' })).toEqual(['seal 0..2', 'tell 2 sealed'])
    // The owner goes on before that: its late message is no news, and it is told again where it lost its channel.
    expect(effects(silent, says(OWNER, { kind: 'serving', epoch: 2 }))).toEqual([])
    const back = { kind: 'back', role: 'standby', epoch: 0, sealed: false } as const
    expect(effects(silent, says(OWNER, back))).toEqual(['tell 0 reinstate 2'])
  })

  it('lets a joiner come in place of a first member that does not say Serving', () => {
    const { state } = stepHolder(initialHolder('member', NOBODY, NO_EPOCH), { type: 'join', id: 0 })
    const committing = after([says(0, { kind: 'ready' }), says(0, { kind: 'prepared' })], state)
    const { phase, epoch, grant } = after([{ type: 'deadline' }], committing)
    expect([committing.phase, phase, epoch]).toEqual(['committing', 'idle', grant])
  })

  it('gives the right back at once when the one that was to come back cannot', () => {
    const returning = after([...upTo.probation, { type: 'unhealthy' }])
    expect(effects(returning, says(OWNER, { kind: 'unfit', epoch: 2 }))).toEqual([
      'make 3 4',
      'seal 0..2',
      'tell 1 reinstate 3',
    ])
    // A message from before the owner was told to come back.
    expect(stepHolder(returning, says(OWNER, { kind: 'unfit', epoch: 0 })).state).toBe(returning)
  })

  it('has an owner that could not come back try again while the other has no channel', () => {
    const returning = after([...upTo.probation, { type: 'unhealthy' }])
    const unfit = says(OWNER, { kind: 'unfit', epoch: 2 })
    const waits = after([{ type: 'lost', id: JOINER }, unfit], returning)
    expect(effects(waits, { type: 'renew' })).toEqual(['tell 0 reinstate 2'])
    const again = after([{ type: 'renew' }], waits)
    expect(effects(again, { type: 'renew' })).toEqual([])
    expect(after([says(OWNER, { kind: 'serving', epoch: 2 })], again)).toMatchObject({
      phase: 'idle',
      bound: [JOINER],
    })
    // The owner fails again, and the other is back.
    const back = says(JOINER, { kind: 'back', role: 'serving', epoch: 1, sealed: true })
    expect(effects(after([unfit], again), back)).toContain('tell 1 reinstate 3')
  })

  it('gives an owner that could not begin a new segment when it is back, though its Back is older than the seal', () => {
    const readOnly = after([
      ...upTo.probation,
      { type: 'unhealthy' },
      { type: 'deadline' },
      says(OWNER, { kind: 'unfit', epoch: 0 }),
      says(JOINER, { kind: 'unfit', epoch: 3 }),
    ])
    expect(readOnly).toMatchObject({ phase: 'idle', owner: OWNER, unfit: [OWNER, JOINER] })
    const back = says(OWNER, { kind: 'back', role: 'serving', epoch: 2, sealed: false })
    expect(effects(readOnly, back)).toEqual(['make 5', 'seal 0..4', 'tell 0 reinstate 5'])
  })

  it('tells a standby that could not accept again at the next silence of the successor', () => {
    const unfit = says(OWNER, { kind: 'unfit', epoch: 0 })
    const helped = after([...upTo.probation, unfit, { type: 'silent' }])
    expect(effects(helped, { type: 'silent' })).toEqual([])
    expect(effects(after([unfit], helped), { type: 'silent' })).toEqual(['tell 0 resume'])
    expect(effects(after([says(2, { kind: 'unfit', epoch: 0 })], helped), { type: 'silent' })).toEqual([])
  })

  it('tells a standby to accept again in a later trouble, though it was told before the rollback', () => {
    const unfit = (id: number, epoch: number) => says(id, { kind: 'unfit', epoch })
    const helped = after([...upTo.probation, unfit(OWNER, 0), { type: 'silent' }])
    // For now the standby can write again.
    const back = says(OWNER, { kind: 'back', role: 'standby', epoch: 0, sealed: true })
    const again = after([back, { type: 'unhealthy' }, unfit(OWNER, 2)], helped)
    expect(again).toMatchObject({ phase: 'committing', owner: OWNER, joiner: JOINER })
    expect(effects(again, { type: 'deadline' })).toEqual(['tell 0 resume'])
  })

  it('has one that comes back stand by before it accepts in place of a silent successor', () => {
    const helped = after([...upTo.probation, says(OWNER, { kind: 'unfit', epoch: 0 }), { type: 'silent' }])
    const back = { kind: 'back', epoch: 0, sealed: true, unfit: true } as const
    expect(effects(helped, says(OWNER, { ...back, role: 'standby' }))).toEqual(['tell 0 resume'])
    // The owner missed Retire, and would take Released for another's.
    expect(effects(helped, says(OWNER, { ...back, role: 'orphan' }))).toEqual([
      'tell 0 retire',
      'tell 0 resume',
    ])
  })

  it('does not turn away from a successor that lives for an elder that cannot come back', () => {
    const known = after([...upTo.probation, says(OWNER, { kind: 'unfit', epoch: 0 })])
    expect(effects(known, { type: 'unhealthy' })).toEqual([])
    expect(effects(known, { type: 'lost', id: JOINER })).toEqual([])
    // A process has to accept while the owner is silent.
    expect(effects(known, { type: 'silent' })).toEqual(['tell 0 resume'])
    expect(effects(after([{ type: 'silent' }], known), { type: 'silent' })).toEqual([])
    expect(effects(known, { type: 'dead', id: JOINER })).toContain('tell 0 reinstate 2')
  })

  it('lets the next version join one that can only read', () => {
    const alone = after([
      ...upTo.probation,
      { type: 'dead', id: JOINER },
      says(OWNER, { kind: 'unfit', epoch: 2 }),
    ])
    expect(alone).toMatchObject({ phase: 'idle', owner: OWNER, unfit: [OWNER] })
    expect(effects(alone, { type: 'join', id: 2 })).toEqual(['make 3 4', 'tell 2 offer 3'])
    expect(effects(alone, { type: 'renew' })).toEqual(['make 3', 'seal 0..2', 'tell 0 reinstate 3'])
  })

  it('turns back when the successor cannot begin', () => {
    expect(effects(after(upTo.committing), says(JOINER, { kind: 'unfit', epoch: 1 }))).toEqual([
      'failed 1 in committing',
      'tell 0 resume',
      'seal 0..1',
      'tell 0 reinstate 2',
    ])
  })

  it('does not count one as bound that the kernel took no descriptor for, whenever it hears of that', () => {
    const undelivered: HolderEvent = { type: 'undelivered', id: JOINER, taken: false }
    for (const events of [
      [join, undelivered],
      [join, { type: 'lost', id: JOINER } as const, undelivered],
    ]) {
      expect(effects(after(events), { type: 'join', id: 2 })).toEqual(['make 3 4', 'tell 2 offer 3'])
    }
    const taken = after([join, { ...undelivered, taken: true }])
    expect(effects(taken, { type: 'join', id: 2 })).toEqual(['refuse 2: bound'])
  })

  it('ends an offer whose segments cannot be made, and leaves the owner alone', () => {
    expect(effects(after([join]), { type: 'unmade' })).toEqual([
      'failed 1 in offering',
      'seal 1..1',
      'seal 2..2',
      'tell 1 abort',
    ])
    expect(after([join, { type: 'unmade' }])).toMatchObject({ phase: 'idle', bound: [] })
  })

  it('ignores Serving for a grant that is not current', () => {
    const committing = after(upTo.committing)
    for (const epoch of [0, 2, 7]) {
      expect(stepHolder(committing, says(JOINER, { kind: 'serving', epoch })).state).toBe(committing)
    }
    expect(stepHolder(committing, says(OWNER, { kind: 'serving', epoch: 1 })).state).toBe(committing)
  })

  it('refuses a second joiner as busy, and says if the owner has no channel', () => {
    expect(effects(after([join]), { type: 'join', id: 2 })).toEqual(['refuse 2: busy'])
    expect(effects(after([{ type: 'lost', id: OWNER }]), join)).toEqual(['refuse 1: untold'])
  })

  it('has one that can only read accept, if it hears that, and tells all others that they may not', () => {
    const alone = after([...upTo.probation, { type: 'dead', id: JOINER }])
    const unfit = says(OWNER, { kind: 'unfit', epoch: 2 })
    expect(effects(alone, unfit)).toEqual(['tell 0 resume', 'seal 0..2'])
    expect(effects(after([{ type: 'lost', id: OWNER }], alone), unfit)).toEqual(['seal 0..2'])
  })

  it('can tell one that is back what it could not tell before, and no other that was lost', () => {
    const late = after([
      join,
      { type: 'deadline' },
      { type: 'lost', id: JOINER },
      { type: 'lost', id: OWNER },
    ])
    expect(late.down).toEqual([OWNER, JOINER])
    const back = { kind: 'back', role: 'serving', epoch: 0, sealed: false } as const
    expect(after([says(OWNER, back)], late).down).toEqual([JOINER])
    expect(after([says(JOINER, { ...back, role: 'ready' })], late).down).toEqual([OWNER])
  })

  it('comes to the same after a restart, in whatever order they come back', () => {
    const back = { kind: 'back', role: 'serving', epoch: 1, sealed: true, top: 2 } as const
    for (const ids of [
      [1, 2, 3],
      [3, 1, 2],
      [2, 3, 1],
      [3, 2, 1],
    ]) {
      const { returned: backs } = after(
        ids.map(id => says(id, back)),
        restartedHolder(),
      )
      expect(backs.map(({ id }) => id)).toEqual([1, 2, 3])
    }
  })

  it('names a writer after a restart when all are back, in a segment above all that exist', () => {
    const rebuilding = after(
      [
        says(0, { kind: 'back', role: 'standby', epoch: 0, sealed: true, top: 4 }),
        says(1, { kind: 'back', role: 'serving', epoch: 1, sealed: false, top: 2 }),
      ],
      restartedHolder(),
    )
    expect(effects(rebuilding, { type: 'rebuilt' })).toEqual(['make 5', 'seal 0..4', 'tell 1 reinstate 5'])
  })

  it('offers the next version all segments if the owner dies before it serves again after a restart', () => {
    const returning = after(
      [says(1, { kind: 'back', role: 'serving', epoch: 1, sealed: true, top: 4 }), { type: 'rebuilt' }],
      restartedHolder(),
    )
    expect(effects(returning, { type: 'dead', id: 1 })).toEqual(['seal 0..5'])
    expect(after([{ type: 'dead', id: 1 }], returning)).toMatchObject({
      phase: 'idle',
      owner: NOBODY,
      epoch: 5,
      top: 5,
    })
  })

  const back = (role: Role, epoch: number, top: number | undefined, sealed = true) =>
    ({ kind: 'back', role, epoch, sealed, ...(top !== undefined && { top }) }) as const

  it('goes on with a probation after a restart: the elder stands by, with a segment of its own', () => {
    const rebuilding = after(
      [says(1, back('orphan', 1, 3)), says(2, back('serving', 2, 3, false))],
      restartedHolder(),
    )
    expect(effects(rebuilding, { type: 'rebuilt' })).toEqual(['make 4 5', 'seal 0..3', 'tell 2 reinstate 4'])
    const returning = after([{ type: 'rebuilt' }], rebuilding)
    expect(effects(returning, says(2, { kind: 'serving', epoch: 4 }))).toEqual(['tell 1 retire'])
    const probation = after([says(2, { kind: 'serving', epoch: 4 })], returning)
    expect(probation).toMatchObject({
      phase: 'probation',
      owner: 2,
      standby: 1,
      epoch: 4,
      wayBack: 5,
      top: 5,
    })
    expect(effects(probation, { type: 'dead', id: 2 })).toEqual(
      expect.arrayContaining(['tell 1 resume', 'seal 0..4', 'tell 1 reinstate 5']),
    )
    // Not a rollback: the successor that was rolled back leaves.
    const rolledBack = after([{ type: 'unhealthy' }, says(1, { kind: 'serving', epoch: 5 })], probation)
    expect(rolledBack).toMatchObject({ phase: 'idle', owner: 1, bound: [2] })
  })

  it.each([
    ['a joiner, which has never served', back('ready', 3, 3)],
    ['one that was released: the owner has got a segment since', back('standby', 1, 2)],
    ['one of an earlier release, which does not say what it knows', back('standby', 1, undefined)],
  ])('does not let %s stand by after a restart', (_who, other) => {
    const rebuilding = after([says(1, other), says(2, back('serving', 2, 3, false))], restartedHolder())
    const idle = after([{ type: 'rebuilt' }, says(2, { kind: 'serving', epoch: 4 })], rebuilding)
    expect(idle).toMatchObject({ phase: 'idle', owner: 2, bound: [1] })
  })
})

describe('the holder, whatever it hears', () => {
  const id = fc.integer({ min: NOBODY, max: 3 })
  const epoch = fc.integer({ min: -1, max: 9 })
  const message: fc.Arbitrary<ToHolder> = fc.oneof(
    fc
      .constantFrom<ToHolder['kind']>('ready', 'frozen', 'prepared', 'abort', 'gone')
      .map(kind => ({ kind }) as ToHolder),
    epoch.map(e => ({ kind: 'serving', epoch: e }) as const),
    epoch.map(e => ({ kind: 'unfit', epoch: e }) as const),
    fc.record({
      kind: fc.constant('back' as const),
      role: fc.constantFrom(
        'ready' as const,
        'serving' as const,
        'frozen' as const,
        'standby' as const,
        'orphan' as const,
      ),
      epoch,
      sealed: fc.boolean(),
    }),
    // A message of a later version.
    fc.string().map(kind => untyped<ToHolder>({ kind: `x-${kind}` })),
  )
  const event: fc.Arbitrary<HolderEvent> = fc.oneof(
    id.map(i => ({ type: 'join', id: i }) as const),
    fc.record({ type: fc.constant('message' as const), from: id, message }),
    id.map(i => ({ type: 'lost', id: i }) as const),
    id.map(i => ({ type: 'dead', id: i }) as const),
    fc
      .constantFrom(
        'deadline' as const,
        'unhealthy' as const,
        'silent' as const,
        'healthy' as const,
        'unmade' as const,
        'renew' as const,
        'rebuilt' as const,
      )
      .map(type => ({ type })),
    fc.record({ type: fc.constant('undelivered' as const), id, taken: fc.boolean() }),
  )

  it('never makes an epoch twice, never throws, never changes a state in place', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), fc.boolean(), (events, restarted) => {
        let state = restarted ? restartedHolder() : initialHolder('member', OWNER, 0)
        for (const next of events) {
          const before = state
          deepFreeze(before)
          const step = stepHolder(before, next)
          for (const effect of step.effects) {
            if (effect.type === 'make') expect(Math.min(...effect.epochs)).toBeGreaterThan(before.top)
          }
          expect(step.state.top).toBeGreaterThanOrEqual(before.top)
          state = step.state
        }
      }),
      { seed: 20240501, numRuns: 2000 },
    )
  })

  it('leaves its state alone at a message that it does not know', () => {
    const unknown = untyped<ToHolder>({ kind: 'x-later', epoch: 3 })
    for (const state of [after([]), after(upTo.freezing), after(upTo.committing), restartedHolder()]) {
      expect(stepHolder(state, says(JOINER, unknown))).toEqual({ state, effects: [] })
    }
  })
})

function deepFreeze(value: object): void {
  Object.freeze(value)
  for (const inner of Object.values(value)) if (typeof inner === 'object' && inner !== null) deepFreeze(inner)
}

describe('an upgrade that is cancelled', () => {
  const preparing = [...upTo.freezing, says(OWNER, { kind: 'frozen' })]

  it.each([
    ['offering', [join], 'idle'],
    ['quiescing', upTo.quiescing, 'idle'],
    ['freezing', upTo.freezing, 'returning'],
    ['preparing', preparing, 'returning'],
  ] as const)('in phase %s: the joiner is given up, and its segment sealed', (phase, events, next) => {
    const state = after(events)
    expect(state.phase).toBe(phase)
    const step = stepHolder(state, cancel)
    expect(step.state).toMatchObject({ phase: next, owner: OWNER, joiner: NOBODY, bound: [JOINER] })
    expect(effects(state, cancel)).toContain(`tell ${JOINER} abort`)
    expect(effects(state, cancel).filter(text => text.startsWith('seal')).length).toBeGreaterThan(0)
  })

  it.each([
    ['committing', upTo.committing],
    ['probation', upTo.probation],
  ] as const)('in phase %s: nothing happens, as the successor has its right', (phase, events) => {
    const state = after(events)
    expect(state.phase).toBe(phase)
    expect(stepHolder(state, cancel)).toEqual({ state, effects: [] })
  })
})

describe('the holder of memory that cannot be sealed', () => {
  const unsealed = (events: readonly HolderEvent[], scope: 'holder' | 'member' = 'member') =>
    events.reduce(
      (before, event) => stepHolder(before, event, WITHOUT_SEALS).state,
      initialHolder(scope, OWNER, 0),
    )
  const toldBy = (state: HolderState, event: HolderEvent) =>
    stepHolder(state, event, WITHOUT_SEALS).effects.flatMap(effect =>
      effect.type === 'tell' ? [`${effect.to} ${effect.message.kind}`] : [],
    )

  it.each(['holder', 'member'] as const)('releases the one before when the next serves (%s)', scope => {
    const serving = says(JOINER, { kind: 'serving', epoch: 1 })
    const committed = unsealed(upTo.committing, scope)
    expect(toldBy(committed, serving)).toEqual(
      expect.arrayContaining([`${OWNER} retire`, `${OWNER} released`]),
    )
    expect(unsealed([...upTo.committing, serving], scope).phase).toBe(
      scope === 'holder' ? 'released' : 'idle',
    )
  })

  it('gives no right back while a joiner that was told to commit may live: it is silent, or its channel ends', () => {
    const late: HolderEvent[] = [{ type: 'deadline' }, { type: 'lost', id: JOINER }]
    for (const event of late) expect(toldBy(unsealed(upTo.committing), event)).toEqual([])
    expect(toldBy(unsealed([...upTo.committing, ...late]), { type: 'dead', id: JOINER })).toContain(
      `${OWNER} reinstate`,
    )
  })

  it.each([
    ['has closed all', { kind: 'abort' }],
    ['cannot write', { kind: 'unfit', epoch: 1 }],
  ] as const)('gives the right back at once when the joiner itself says that it %s', (_what, message) => {
    expect(toldBy(unsealed(upTo.committing), says(JOINER, message))).toContain(`${OWNER} reinstate`)
  })

  it('gives up the upgrade when the owner does not freeze: it may write still', () => {
    const state = unsealed([...upTo.freezing, { type: 'deadline' }])
    expect(state).toMatchObject({ phase: 'returning', owner: OWNER })
    expect(toldBy(state, { type: 'deadline' })).toEqual([])
  })
})
