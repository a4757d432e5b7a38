import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { closeAll, READABLE, sendMessage, socketPair, watch } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import type { HealthCheck } from '../../../src/probing/health-check.js'
import { UpgradeRequests } from '../../../src/run/upgrade-requests.js'
import { Timers } from '../../../src/versions/timers.js'
import { initial, type SupervisorEvent, step } from '../../../src/versions/version-machine.js'
import {
  DelayProbe,
  PollingProbe,
  type ProbeEvents,
  ReadyFdProbe,
} from '../../../src/versions/version-probe.js'
import { until } from '../../processes/until.js'

afterEach(() => vi.useRealTimers())

/** The messages of a probe. */
function told() {
  const heard: string[] = []
  const events: ProbeEvents = {
    ready: () => heard.push('ready'),
    failed: why => heard.push(`failed ${why}`),
    recovered: () => heard.push('recovered'),
    mainProcess: () => {},
    statusText: () => {},
  }
  return { heard, events }
}

describe('the timers of a supervisor', () => {
  const timers = () => {
    const heard: string[] = []
    const all = new Timers({
      elapsed: (timer, version, ms) => heard.push(`${timer} ${version} ${ms}`),
      backedOff: () => heard.push('backed off'),
    })
    return { all, heard }
  }

  it('rest twice as long each time, and 30 s at most', () => {
    vi.useFakeTimers()
    const { all } = timers()
    expect([1, 2, 3, 10].map(failures => all.backOff(1_000, failures))).toEqual([1_000, 2_000, 4_000, 30_000])
    all.close()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('elapse once where they are started anew: the earlier one does not count', () => {
    vi.useFakeTimers()
    const { all, heard } = timers()
    all.start('ready', 1, 100)
    all.start('ready', 1, 300)
    vi.advanceTimersByTime(200)
    expect(heard).toEqual([])
    vi.advanceTimersByTime(200)
    expect(heard).toEqual(['ready 1 300'])
  })

  it('go on in the next image with what is left of each', () => {
    vi.useFakeTimers()
    const { all } = timers()
    all.start('stop', 2, 1_000)
    vi.advanceTimersByTime(400)
    expect(all.remaining).toEqual({ 'stop 2': 600 })
    all.close()
    const next = timers()
    next.all.resume({ 'stop 2': 600 })
    // The step behind the timer.
    vi.advanceTimersByTime(601)
    expect(next.heard).toEqual(['stop 2 600'])
  })

  it('hear first what has arrived while the supervisor was stopped', async () => {
    const { all, heard } = timers()
    using probe = new ReadyFdProbe(3)
    using theirs = probe.fds[0]!.dup()
    probe.start(1, { ...told().events, ready: () => heard.push('ready') })
    all.start('ready', 1, 10)
    sendMessage(theirs, Buffer.from('\n'), 0, 1, [])
    // Holds the event loop, as a SIGSTOP does.
    const end = performance.now() + 20
    while (performance.now() < end);
    await until('both were heard', () => heard.length === 2)
    expect(heard).toEqual(['ready', 'ready 1 10'])
  })
})

describe('a version', () => {
  it('becomes ready when it has answered well so often in a row', async () => {
    const answers = [null, 'no', null, null]
    let asked = 0
    const question: HealthCheck = { name: 'it', run: async () => answers[asked++] ?? null }
    const { events } = told()
    let readyAt = 0
    const ready = () => {
      readyAt = asked
    }
    const probe = new PollingProbe(() => question, { interval: 1, timeout: 1_000, passes: 2 })
    probe.start(1, { ...events, ready })
    await until('it is ready', () => readyAt > 0)
    probe.stop()
    expect(readyAt).toBe(4)
  })

  it('has no check open that would delay the end of its probation, once it serves and is not checked any more', async () => {
    let asked = 0
    const question: HealthCheck = {
      name: 'it',
      run: () => (++asked === 1 ? Promise.resolve(null) : new Promise(() => {})),
    }
    const timing = { interval: 1, timeout: 1_000, passes: 1 }
    const probe = new PollingProbe(() => question, timing, { asksServing: false })
    probe.start(1, told().events)
    await until('the second check waits for its answer', () => asked === 2 && probe.isOpen)
    probe.markServing()
    expect(probe.isOpen).toBe(false)
  })

  it('becomes ready by no end of the descriptor without a line, and is not heard any more', async () => {
    const { heard, events } = told()
    const open = native.openCount()
    const probe = new ReadyFdProbe(3)
    const theirs = probe.fds[0]!.dup()
    probe.start(1, events)
    const line = Buffer.from('not yet')
    // A program may pass descriptors, which no version needs to.
    sendMessage(theirs, line, 0, line.length, [theirs])
    theirs.close()
    await until('the probe has closed its descriptors', () => native.openCount() === open, 1_000)
    expect(heard).toEqual([])
  })

  it('becomes ready by a line on the descriptor', async () => {
    const { heard, events } = told()
    const probe = new ReadyFdProbe(3)
    const theirs = probe.fds[0]!.dup()
    probe.start(1, events)
    sendMessage(theirs, Buffer.from('ready\n'), 0, 6, [])
    await until('it is ready', () => heard.length > 0)
    theirs.close()
  })

  it('becomes ready by no age when it has ended before', () => {
    vi.useFakeTimers()
    const { heard, events } = told()
    const probe = new DelayProbe(1_000)
    probe.start(1, events)
    vi.advanceTimersByTime(500)
    probe.stop()
    vi.advanceTimersByTime(1_000)
    expect(heard).toEqual([])
  })
})

describe('a version of which this process hears behind a stop of its own', () => {
  it('does not become ready by its age before its end is heard', async () => {
    const { heard, events } = told()
    const [own, theirs] = socketPair('the end of the version')
    const probe = new DelayProbe(10)
    const end = watch(own, () => {
      heard.push('ended')
      probe.stop()
      end.close()
      closeAll([own, theirs])
    })
    end.start(READABLE)
    // A turn runs timers next, then reads.
    await nextTurn()
    probe.start(1, events)
    sendMessage(theirs, Buffer.from('\n'), 0, 1, [])
    // Holds the event loop, as a SIGSTOP does.
    const until = performance.now() + 20
    while (performance.now() < until);
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    expect(heard).toEqual(['ended'])
  })
})

describe('those who ask for an upgrade', () => {
  it('leave the list when they are answered', async () => {
    const askers = new UpgradeRequests()
    let id = 0
    const answer = askers.ask({ argv: ['a'] }, undefined, event => {
      id = 'asker' in event ? event.asker : 0
    })
    askers.succeeded([id], { id: 2, pid: 1 })
    expect(await answer).toMatchObject({ pid: 1 })
    expect(askers.argvOf([id])).toBeNull()
  })

  it('wait as long as a timer can, if they name a longer time', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const askers = new UpgradeRequests()
    const heard: string[] = []
    void askers.ask({ timeoutMs: 2 ** 31 - 1 }, undefined, event => heard.push(event.type))
    vi.advanceTimersByTime(60_000)
    expect(heard).toEqual(['upgrade'])
  })

  it('give their version no limit if one of them has none, as a signal', () => {
    const askers = new UpgradeRequests()
    const ids: number[] = []
    for (const timeoutMs of [2_000, 5_000, 0])
      void askers.ask({ timeoutMs }, undefined, event => 'asker' in event && ids.push(event.asker))
    expect([askers.timeoutOf(ids.slice(0, 2)), askers.timeoutOf(ids), askers.timeoutOf([])]).toEqual([
      5_000, 0, 0,
    ])
  })
})

describe('the machine of a supervisor', () => {
  /** One version serves, and another is in the phase that `events` bring it to. */
  function after(...events: SupervisorEvent[]) {
    const effects: string[] = []
    let state = initial('on-failure')
    for (const event of events) {
      const next = step(state, event)
      state = next.state
      effects.push(...next.effects.map(effect => JSON.stringify(effect)))
    }
    return { state, effects }
  }
  const FIRST: SupervisorEvent[] = [
    { type: 'start' },
    { type: 'spawned', version: 1 },
    { type: 'ready', version: 1 },
  ]
  const SECOND: SupervisorEvent[] = [
    { type: 'upgrade', asker: 7 },
    { type: 'spawned', version: 2 },
    { type: 'ready', version: 2 },
    { type: 'elapsed', timer: 'healthy', version: 2 },
  ]
  const phases = (...events: SupervisorEvent[]) =>
    after(...events).state.versions.map(({ id, phase }) => `${id} ${phase}`)

  it('ends the version before when the next serves, and kills it when it does not end in time', () => {
    expect(phases(...FIRST, ...SECOND)).toEqual(['1 stopping', '2 serving'])
    const late: SupervisorEvent = { type: 'elapsed', timer: 'stop', version: 1 }
    expect(phases(...FIRST, ...SECOND, late)).toEqual(['1 killed', '2 serving'])
    expect(after(...FIRST, ...SECOND).effects.join()).toContain('"timer":"stop","version":1')
  })

  it('ends all versions with a stop: also one that is starting, and one that drains', () => {
    const stop: SupervisorEvent = { type: 'stop', now: false }
    expect(phases(...FIRST, ...SECOND, stop)).toEqual(['1 stopping', '2 stopping'])
    expect(phases(...FIRST, ...SECOND.slice(0, 2), stop)).toEqual(['1 stopping', '2 stopping'])
    expect(phases(...FIRST, ...SECOND.slice(0, 3), stop)).toEqual(['1 stopping', '2 stopping'])
  })

  it('kills all versions with a second stop, one that drains too', () => {
    const stop = (now: boolean): SupervisorEvent => ({ type: 'stop', now })
    expect(phases(...FIRST, ...SECOND, stop(false), stop(true))).toEqual(['1 killed', '2 killed'])
  })

  it('does not take a version for proved that is to end', () => {
    const gone: SupervisorEvent = { type: 'exited', version: 1, code: 1 }
    const again: SupervisorEvent = { type: 'backed-off' }
    const spawned: SupervisorEvent = { type: 'spawned', version: 2 }
    const proved: SupervisorEvent = { type: 'elapsed', timer: 'proved', version: 1 }
    expect(after(...FIRST, gone, again, spawned, proved).state.failures).toBe(1)
  })

  it('starts nothing instead of a version that is well again before its rest is over', () => {
    const sick: SupervisorEvent = { type: 'unhealthy', version: 1 }
    expect(after(...FIRST, sick).state.waiting).toBe(true)
    const well = [...FIRST, sick, { type: 'healthy', version: 1 } as const]
    expect(phases(...well, { type: 'backed-off' })).toEqual(['1 serving'])
  })

  it('forgets the failures of a version that is well again for its probation, also if it had completed that', () => {
    const proved: SupervisorEvent = { type: 'elapsed', timer: 'proved', version: 1 }
    const sick: SupervisorEvent = { type: 'unhealthy', version: 1 }
    const well: SupervisorEvent = { type: 'healthy', version: 1 }
    const { state, effects } = after(...FIRST, proved, sick, well)
    expect(state.failures).toBe(1)
    expect(effects.at(-1)).toBe('{"type":"wait","timer":"proved","version":1}')
    expect(after(...FIRST, proved, sick, well, sick, proved).state.failures).toBe(2)
    expect(after(...FIRST, proved, sick, well, sick, well, proved).state.failures).toBe(0)
  })

  it('starts the previous version for a rollback that comes when another one was cancelled', () => {
    const rollback = (asker: number): SupervisorEvent => ({ type: 'rollback', asker })
    const proved: SupervisorEvent = { type: 'elapsed', timer: 'proved', version: 1 }
    const gone: SupervisorEvent = { type: 'exited', version: 1, code: 0 }
    const { state, effects } = after(
      ...[...FIRST, proved, ...SECOND, gone],
      ...[rollback(8), { type: 'cancel', asker: 8 } as const, rollback(9)],
      ...([
        { type: 'spawned', version: 3 },
        { type: 'ready', version: 3 },
      ] as const),
    )
    const answers = effects.filter(effect => effect.includes('"answer"'))
    expect(answers.slice(-2)).toEqual([
      '{"type":"answer","askers":[8],"version":3,"outcome":"cancelled"}',
      '{"type":"answer","askers":[9],"version":3,"outcome":"serving"}',
    ])
    expect(state.versions.map(({ id, phase }) => `${id} ${phase}`)).toEqual(['2 stopping', '3 serving'])
  })

  it('starts nothing again that ended well, where only failures are to be', () => {
    expect(after(...FIRST, { type: 'exited', version: 1, code: 0 }).state.mode).toBe('ended')
    expect(after(...FIRST, { type: 'exited', version: 1, code: 3 }).state.waiting).toBe(true)
  })
})
