import { describe, expect, it } from 'vitest'
import {
  candidate,
  initial,
  type Restart,
  type SupervisorEffect,
  type SupervisorEvent,
  type SupervisorState,
  serving,
  step,
  type TimerName,
} from '../../src/versions/version-machine.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** Events of a version's process and of the kernel, seen by the machine: late, twice, or never. */
type Choice =
  | { readonly kind: 'upgrade' | 'rollback' | 'cancel' | 'stop' | 'stop now' | 'backed-off' }
  | {
      readonly kind: 'spawned' | 'spawn-failed' | 'ready' | 'unhealthy' | 'healthy' | 'exited' | 'elapsed'
      readonly which: number
      readonly code: number
    }

const choice: fc.Arbitrary<Choice> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constantFrom('upgrade', 'upgrade', 'rollback', 'cancel', 'backed-off') }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('stop', 'stop now') }) },
  {
    weight: 16,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'spawned',
        'spawned',
        'spawn-failed',
        'ready',
        'unhealthy',
        'healthy',
        'exited',
        'elapsed',
      ),
      which: fc.nat(40),
      code: fc.constantFrom(0, 1, 137),
    }),
  },
) as fc.Arbitrary<Choice>

/** Carries effects out in a world without time, and holds what must never be. */
class World {
  state: SupervisorState
  readonly spawning = new Set<number>()
  readonly alive = new Set<number>()
  readonly ready = new Set<number>()
  readonly promoted = new Set<number>()
  /** Told to end by SIGKILL. */
  readonly killed = new Set<number>()
  timers: { timer: TimerName; version: number }[] = []
  resting = false
  readonly waiting = new Set<number>()
  readonly outcomes = new Map<number, string>()
  asked = 0
  exits: number[] = []
  stopped = false

  constructor(restart: Restart) {
    this.state = initial(restart)
    this.tell({ type: 'start' })
  }

  tell(event: SupervisorEvent): void {
    const before = serving(this.state)
    const { state, effects } = step(this.state, event)
    this.state = state
    for (const effect of effects) this.#take(effect)
    const phases = state.versions.map(({ phase }) => phase)
    expect(phases.filter(phase => phase === 'serving').length).toBeLessThanOrEqual(1)
    expect(
      phases.filter(phase => phase === 'spawning' || phase === 'starting' || phase === 'trial').length,
    ).toBeLessThanOrEqual(1)
    // No request is left waiting behind nothing.
    if (state.next.length > 0) expect(candidate(state)).toBeDefined()
    // The serving version is told to end for one that is ready, or for the end of all.
    const ended = effects.find(effect => effect.type === 'end' && effect.version === before?.id)
    if (ended !== undefined && state.mode === 'running') {
      const now = serving(state)
      expect(now).toBeDefined()
      expect(this.ready.has(now!.id)).toBe(true)
    }
    // A living version is in the state, or nothing would end it.
    for (const version of this.alive) expect(state.versions.map(({ id }) => id)).toContain(version)
    if (state.mode === 'running' && state.versions.length === 0) expect(state.waiting).toBe(true)
  }

  #take(effect: SupervisorEffect): void {
    if (effect.type !== 'answer') expect(this.exits).toEqual([])
    switch (effect.type) {
      case 'spawn':
        expect(this.stopped).toBe(false)
        // A version that is started again has served.
        if (effect.of !== undefined) expect(this.promoted.has(effect.of)).toBe(true)
        this.spawning.add(effect.version)
        return
      case 'wait':
        this.timers.push({ timer: effect.timer, version: effect.version })
        return
      case 'back-off':
        this.resting = true
        return
      case 'promote':
        expect(this.ready.has(effect.version)).toBe(true)
        this.promoted.add(effect.version)
        return
      case 'end':
        expect(this.alive.has(effect.version)).toBe(true)
        return
      case 'kill':
        expect(this.alive.has(effect.version)).toBe(true)
        this.killed.add(effect.version)
        return
      case 'answer':
        for (const asker of effect.askers) {
          expect(this.waiting.delete(asker)).toBe(true)
          this.outcomes.set(asker, effect.outcome)
        }
        return
      case 'exit':
        expect(this.state.versions).toEqual([])
        this.exits.push(effect.code)
    }
  }

  choose(choice: Choice): void {
    switch (choice.kind) {
      case 'upgrade':
      case 'rollback':
        this.waiting.add(++this.asked)
        this.tell({ type: choice.kind, asker: this.asked })
        return
      case 'cancel':
        this.tell({ type: 'cancel', asker: this.asked })
        return
      case 'stop':
      case 'stop now':
        this.stopped = true
        this.tell({ type: 'stop', now: choice.kind === 'stop now' })
        return
      case 'backed-off':
        if (this.resting) this.tell({ type: 'backed-off' })
        return
      case 'spawned':
      case 'spawn-failed': {
        const version = pick(this.spawning, choice.which)
        if (version === undefined) return
        this.spawning.delete(version)
        if (choice.kind === 'spawned') this.alive.add(version)
        this.tell({ type: choice.kind, version })
        return
      }
      case 'ready':
        this.#of(choice.which, version => {
          this.ready.add(version)
          this.tell({ type: 'ready', version })
        })
        return
      case 'unhealthy':
        this.#of(choice.which, version => this.tell({ type: 'unhealthy', version }))
        return
      case 'healthy':
        this.#of(choice.which, version => this.tell({ type: 'healthy', version }))
        return
      case 'exited':
        this.#of(choice.which, version => {
          this.alive.delete(version)
          this.tell({ type: 'exited', version, code: choice.code })
        })
        return
      case 'elapsed': {
        const due = this.timers[choice.which % Math.max(1, this.timers.length)]
        if (due === undefined) return
        this.timers = this.timers.filter(timer => timer !== due)
        this.#elapse(due)
      }
    }
  }

  /** A process that is killed ends, before it is given up. */
  #elapse(due: { timer: TimerName; version: number }): void {
    if (due.timer === 'kill' && this.alive.delete(due.version))
      this.tell({ type: 'exited', version: due.version, code: 137 })
    this.tell({ type: 'elapsed', ...due })
  }

  #of(which: number, act: (version: number) => void): void {
    const version = pick(this.alive, which)
    if (version !== undefined) act(version)
  }

  /** Everything that is under way ends, and only that: no process ends by itself, all limits run out. */
  settle(): void {
    for (let turn = 0; turn < 1_000 && (this.spawning.size > 0 || this.timers.length > 0); turn++) {
      for (const version of [...this.spawning]) {
        this.spawning.delete(version)
        this.alive.add(version)
        this.tell({ type: 'spawned', version })
      }
      for (const due of this.timers.splice(0)) this.#elapse(due)
    }
  }
}

function pick(of: ReadonlySet<number>, which: number): number | undefined {
  return [...of][which % Math.max(1, of.size)]
}

const runs = fc.record({
  restart: fc.constantFrom<Restart>('never', 'on-failure', 'always'),
  choices: fc.array(choice, { maxLength: 120 }),
})

describe('whatever versions and effects do, a supervisor', () => {
  it('has one version that serves and one that is to, answers everybody once, and ends once when all have ended', () => {
    fc.assert(
      fc.property(runs, ({ restart, choices }) => {
        const world = new World(restart)
        for (const choice of choices) world.choose(choice)
        world.choose({ kind: 'stop' })
        world.settle()
        expect(world.waiting.size).toBe(0)
        expect(world.outcomes.size).toBe(world.asked)
        expect(world.state).toMatchObject({ mode: 'ended', versions: [], next: [] })
        expect(world.exits.length).toBe(1)
        expect(step(world.state, { type: 'upgrade', asker: 9_999 }).effects).toEqual([
          { type: 'answer', askers: [9_999], version: null, outcome: 'ending' },
        ])
      }),
      { numRuns: perLane(250, 2_000) },
    )
  })

  it('keeps the version that serves through any number of upgrades that fail', () => {
    const failures = fc.array(fc.constantFrom('spawn-failed', 'unhealthy', 'exited', 'elapsed'), {
      maxLength: 20,
    })
    fc.assert(
      fc.property(failures, ways => {
        const world = new World('never')
        world.choose({ kind: 'spawned', which: 0, code: 0 })
        world.choose({ kind: 'ready', which: 0, code: 0 })
        for (const way of ways) {
          world.choose({ kind: 'upgrade' })
          const next = candidate(world.state)!.id
          if (way === 'spawn-failed') {
            world.choose({ kind: way, which: 0, code: 0 })
            continue
          }
          world.choose({ kind: 'spawned', which: 0, code: 0 })
          if (way === 'exited') {
            world.alive.delete(next)
            world.tell({ type: 'exited', version: next, code: 1 })
          } else if (way === 'unhealthy') world.tell({ type: 'unhealthy', version: next })
          else world.tell({ type: 'elapsed', timer: 'ready', version: next })
          if (!world.alive.delete(next)) continue
          // The callers do not hear of the failure while the version can still answer.
          expect(world.outcomes.has(world.asked)).toBe(false)
          world.tell({ type: 'exited', version: next, code: 0 })
        }
        expect(serving(world.state)?.id).toBe(1)
        expect([...world.outcomes.values()]).toEqual(ways.map(() => 'failed'))
        expect(world.exits).toEqual([])
      }),
    )
  })
})

/** The faults of a bad version. */
const BAD = ['spawn-failed', 'exits', 'late', 'dies', 'sick', 'sick, then dies'] as const

describe('a version that served through its probation', () => {
  it('serves again whatever the next ones do, one after the other', () => {
    const runs = fc.record({
      restart: fc.constantFrom<Restart>('never', 'on-failure', 'always'),
      bad: fc.array(fc.constantFrom(...BAD), { minLength: 1, maxLength: 6 }),
    })
    fc.assert(
      fc.property(runs, ({ restart, bad }) => {
        const world = new World(restart)
        // An upgrade brings a bad release; what is started again is what it was.
        const good = new Set([1])
        const up = (version: number) => {
          world.spawning.delete(version)
          world.alive.add(version)
          world.tell({ type: 'spawned', version })
        }
        const ready = (version: number) => {
          world.ready.add(version)
          world.tell({ type: 'ready', version })
        }
        const dies = (version: number) => {
          world.alive.delete(version)
          world.tell({ type: 'exited', version, code: 1 })
        }
        const serves = (version: number) => {
          up(version)
          ready(version)
          world.tell({ type: 'elapsed', timer: 'proved', version })
        }
        serves(1)
        for (const way of bad) {
          world.choose({ kind: 'upgrade' })
          const next = candidate(world.state)!.id
          if (way === 'spawn-failed') {
            world.spawning.delete(next)
            world.tell({ type: 'spawn-failed', version: next })
          } else up(next)
          if (way === 'exits') dies(next)
          if (way === 'late') world.tell({ type: 'elapsed', timer: 'ready', version: next })
          if (way === 'dies' || way === 'sick' || way === 'sick, then dies') {
            ready(next)
            world.tell({ type: 'elapsed', timer: 'healthy', version: next })
            expect(serving(world.state)?.id).toBe(next)
            if (way !== 'dies') world.tell({ type: 'unhealthy', version: next })
            if (way !== 'sick') dies(next)
            const again = candidate(world.state)!
            expect(good).toContain(again.of)
            good.add(again.id)
            serves(again.id)
          }
          expect(good).toContain(serving(world.state)!.id)
        }
      }),
      { numRuns: perLane(75, 300) },
    )
  })

  it('serves again when an operator asks, in probation and after it, and is not left for what was left', () => {
    for (const proved of [false, true]) {
      const world = new World('never')
      const serves = (version: number) => {
        world.choose({ kind: 'spawned', which: 0, code: 0 })
        world.ready.add(version)
        world.tell({ type: 'ready', version })
        world.tell({ type: 'elapsed', timer: 'healthy', version })
      }
      const dies = (version: number) => {
        world.alive.delete(version)
        world.tell({ type: 'exited', version, code: 1 })
      }
      serves(1)
      world.choose({ kind: 'rollback' })
      expect(world.outcomes.get(1)).toBe('cancelled')
      world.choose({ kind: 'upgrade' })
      serves(2)
      if (proved) world.tell({ type: 'elapsed', timer: 'proved', version: 2 })
      dies(1)
      world.choose({ kind: 'rollback' })
      expect(candidate(world.state)).toMatchObject({ id: 3, of: 1 })
      world.choose({ kind: 'spawned', which: 0, code: 0 })
      // The previous version does not start: the serving version stays.
      dies(3)
      expect([serving(world.state)?.id, world.outcomes.get(3)]).toEqual([2, 'failed'])
      world.choose({ kind: 'rollback' })
      serves(4)
      expect([serving(world.state)?.id, world.outcomes.get(4)]).toEqual([4, 'serving'])
      dies(2)
      expect(world.state.before).toBe(null)
      dies(4)
      // The version fell in its probation: only a version that has proved itself is better than another start of the previous version.
      expect(candidate(world.state)?.of).toBe(proved ? 2 : undefined)
    }
  })

  it('starts again and again where none comes up', () => {
    const world = new World('always')
    const up = (version: number) => {
      world.choose({ kind: 'spawned', which: 0, code: 0 })
      world.ready.add(version)
      world.tell({ type: 'ready', version })
    }
    up(1)
    world.tell({ type: 'elapsed', timer: 'proved', version: 1 })
    world.choose({ kind: 'upgrade' })
    up(2)
    world.tell({ type: 'elapsed', timer: 'healthy', version: 2 })
    for (let version = 2; version < 8; version++) {
      world.alive.delete(version)
      world.tell({ type: 'exited', version, code: 1 })
      if (version > 2) world.tell({ type: 'backed-off' })
      expect(candidate(world.state)).toMatchObject({ id: version + 1, of: 1 })
      up(version + 1)
    }
  })
})

describe('a supervisor', () => {
  const told = (restart: Restart, ...events: SupervisorEvent[]) => {
    let state = initial(restart)
    let effects: readonly SupervisorEffect[] = []
    for (const event of [{ type: 'start' } as const, ...events]) ({ state, effects } = step(state, event))
    return { state, effects }
  }
  const up = [
    { type: 'spawned', version: 1 },
    { type: 'ready', version: 1 },
  ] as const

  it('ends with the code of the version that served', () => {
    expect(told('never', ...up, { type: 'exited', version: 1, code: 3 }).effects).toEqual([
      { type: 'exit', code: 3 },
    ])
  })

  it('ends with 0 when it is told to end, with whatever code its version ends', () => {
    for (const code of [0, 3, 137])
      expect(
        told('never', ...up, { type: 'stop', now: false }, { type: 'exited', version: 1, code }).effects,
      ).toEqual([{ type: 'exit', code: 0 }])
  })

  it('ends with that code too if the next version, which was being started, fails after it', () => {
    const failed = told(
      'never',
      ...up,
      { type: 'upgrade', asker: 7 },
      { type: 'spawned', version: 2 },
      { type: 'exited', version: 1, code: 3 },
      { type: 'exited', version: 2, code: 5 },
    )
    expect(failed.effects).toEqual([
      { type: 'answer', askers: [7], version: 2, outcome: 'failed' },
      { type: 'exit', code: 3 },
    ])
  })

  it('ends with 0 when it is told to end while no version runs', () => {
    const ended = told('always', ...up, { type: 'exited', version: 1, code: 3 }, { type: 'stop', now: false })
    expect(ended.effects).toEqual([{ type: 'exit', code: 0 }])
  })

  it('does not call a first version that was never ready a success', () => {
    const late = told(
      'never',
      up[0],
      { type: 'elapsed', timer: 'ready', version: 1 },
      { type: 'exited', version: 1, code: 0 },
    )
    expect(late.effects).toEqual([{ type: 'exit', code: 1 }])
    const early = (code: number) => told('never', up[0], { type: 'exited', version: 1, code }).effects
    expect([early(0), early(5)]).toEqual([[{ type: 'exit', code: 1 }], [{ type: 'exit', code: 5 }]])
    const anew = told('on-failure', up[0], { type: 'exited', version: 1, code: 0 })
    expect(anew.effects).toEqual([{ type: 'back-off', failures: 1 }])
  })

  it('starts a version anew after a rest that grows, until one has proved itself', () => {
    const died = { type: 'exited', code: 1 } as const
    const first = told('on-failure', ...up, { ...died, version: 1 })
    expect(first.effects).toEqual([{ type: 'back-off', failures: 1 }])
    const again = [
      { type: 'backed-off' },
      { type: 'spawned', version: 2 },
      { type: 'ready', version: 2 },
    ] as const
    const second = told('on-failure', ...up, { ...died, version: 1 }, ...again, { ...died, version: 2 })
    expect(second.effects).toEqual([{ type: 'back-off', failures: 2 }])
    const proved = { type: 'elapsed', timer: 'proved', version: 2 } as const
    const third = told('on-failure', ...up, { ...died, version: 1 }, ...again, proved, {
      ...died,
      version: 2,
    })
    expect(third.effects).toEqual([{ type: 'back-off', failures: 1 }])
    expect(told('on-failure', ...up, { type: 'exited', version: 1, code: 0 }).effects).toEqual([
      { type: 'exit', code: 0 },
    ])
  })

  it('counts a version once that fails its health checks and then dies, and rests once', () => {
    const { effects, state } = told(
      'on-failure',
      ...up,
      { type: 'unhealthy', version: 1 },
      { type: 'exited', version: 1, code: 137 },
    )
    expect([effects, state.failures, state.waiting, state.code]).toEqual([[], 1, true, 137])
  })

  it('promotes the one on trial at once when the one that serves dies', () => {
    const { effects, state } = told(
      'never',
      ...up,
      { type: 'upgrade', asker: 7 },
      { type: 'spawned', version: 2 },
      { type: 'ready', version: 2 },
      { type: 'exited', version: 1, code: 139 },
    )
    expect(effects).toEqual([
      { type: 'promote', version: 2 },
      { type: 'wait', timer: 'proved', version: 2 },
      { type: 'answer', askers: [7], version: 2, outcome: 'serving' },
    ])
    expect(serving(state)?.id).toBe(2)
  })

  it('brings one further version for all who asked meanwhile', () => {
    const { effects } = told(
      'never',
      ...up,
      { type: 'upgrade', asker: 1 },
      { type: 'upgrade', asker: 2 },
      { type: 'upgrade', asker: 3 },
      { type: 'spawned', version: 2 },
      { type: 'ready', version: 2 },
      { type: 'elapsed', timer: 'healthy', version: 2 },
    )
    expect(effects).toEqual([
      { type: 'promote', version: 2 },
      { type: 'wait', timer: 'proved', version: 2 },
      { type: 'answer', askers: [1], version: 2, outcome: 'serving' },
      { type: 'end', version: 1, why: 'replaced' },
      { type: 'wait', timer: 'stop', version: 1 },
      { type: 'spawn', version: 3 },
    ])
  })
})
