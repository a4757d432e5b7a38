import { afterEach, expect, it, vi } from 'vitest'
import { GradualLeave } from '../../src/base/gradual-leave.js'
import { SILENT } from '../../src/base/logger.js'
import { Pause } from '../../src/daemon/service/pause.js'
import type { HolderPhase } from '../../src/handoff/phases.js'
import { Probation } from '../../src/holder/probation.js'
import { Renewal } from '../../src/holder/renewal.js'
import { SuccessorWatch } from '../../src/holder/stuck.js'
import { HANDOFF_TIMES } from '../../src/holder/times.js'
import { ConnectionDrain } from '../../src/member/drain/connection-drain.js'
import { SealWatch } from '../../src/member/hosting/seal-watch.js'
import { EndOrder } from '../../src/member/lifecycle/end-order.js'
import { Heartbeat } from '../../src/member/lifecycle/heartbeat.js'
import { Shutdown } from '../../src/member/lifecycle/shutdown.js'
import { Watchdog } from '../../src/os/service-manager/service-manager.js'
import { Timers } from '../../src/versions/timers.js'
import { peerWith } from '../holder-support/processes.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

afterEach(() => void vi.useRealTimers())

/** A part of a process that begins its work and ends it, again and again: handoffs fail, and are rolled back. */
interface Part {
  begin(): void
  /** Called each {@link STEP_MS}; `at`: milliseconds since the begin. */
  during?(at: number): void
  end(): void
}

type Tell = (...words: unknown[]) => void

const STEP_MS = 50
const BEAT_MS = 100
/** A life from begin to end, in which each part tells everything that it can tell. */
const WHOLE_MS = 8_000

const TIMES = { ...HANDOFF_TIMES, probation: 1_000, silence: 500, heartbeat: BEAT_MS }

/** `well`: the successor is well for this long, and then silent. */
function probation(tell: Tell, well: number): Part {
  const peer = peerWith({ id: 2 })
  const state: { phase: HolderPhase; owner: number } = { phase: 'idle', owner: 2 }
  const judged = new Probation(
    {
      state: () => state,
      dispatch: ({ type }) => {
        tell(type)
        state.phase = 'idle'
        judged.end()
      },
      peer: () => peer,
      times: () => TIMES,
      mayEnd: () => true,
      onKept: () => tell('kept'),
    },
    BEAT_MS,
  )
  const beat = () => {
    peer.heartbeatAt = performance.now()
    peer.healthyAt = peer.heartbeatAt
    peer.healthy = true
  }
  return {
    begin: () => {
      beat()
      state.phase = 'probation'
      judged.start()
      tell(judged.leftMs)
    },
    during: at => {
      if (at < well) beat()
    },
    end: () => {
      state.phase = 'idle'
      judged.end()
      tell(judged.leftMs)
    },
  }
}

function heartbeat(tell: Tell): Part {
  let idleMs = 0
  const beats = new Heartbeat({
    link: () => ({
      open: true,
      get idleMs() {
        return idleMs
      },
      beat: () => tell('beat'),
    }),
    everyMs: () => BEAT_MS,
    silenceMs: () => TIMES.silence,
    health: () => ({ healthy: true }),
    report: () => ({}),
    events: { before: () => {}, onSilent: () => tell('silent'), onHeard: () => tell('heard') },
  })
  return {
    begin: () => {
      idleMs = 0
      beats.start()
    },
    during: at => {
      idleMs = at < 4_000 ? at : at - 4_000
      tell(beats.holderSilent)
    },
    end: () => {
      beats.stop()
      tell(beats.holderSilent)
    },
  }
}

function sealWatch(tell: Tell): Part {
  const machine = {
    member: { link: 'down', scope: 'holder' } as const,
    phase: 'serving' as const,
    isReleased: false,
    sealed: false,
    step: (event: { type: string }) => tell(event.type),
  }
  const watch = new SealWatch({
    machine: machine as never,
    shutdown: { closing: false, over: false },
    segmentSet: { rules: { arbiter: true } } as never,
    leadership: { quiesce: () => void tell('quiesce') } as never,
    writes: { forward: () => tell('forward') },
  })
  return {
    begin: () => {
      Object.assign(machine, { sealed: false, isReleased: false })
      watch.start()
    },
    during: at => {
      machine.sealed = at >= 2_000
      machine.isReleased = at >= 4_000
    },
    end: () => watch.stop(),
  }
}

function successorWatch(tell: Tell): Part {
  const peer = peerWith({ id: 2 })
  const watch = new SuccessorWatch({ joiner: () => peer, limitMs: () => 500, stuck: () => tell('stuck') })
  return {
    begin: () => {
      peer.sendsHeartbeats = true
      peer.heartbeatAt = performance.now()
      watch.enter('preparing')
    },
    during: at => {
      if (at > 2_000 && at < 3_000) peer.heartbeatAt = performance.now()
    },
    end: () => watch.enter('idle'),
  }
}

function watchdog(tell: Tell): Part {
  const manager = {
    watchdogMs: 500,
    lives: () => tell('lives'),
    extendTimeout: (ms: number) => tell('extends', ms),
  }
  const dog = new Watchdog(manager, () => true)
  return {
    begin: () => {
      dog.start()
      dog.extendTimeout()
    },
    during: at => {
      if (at === 4_000) dog.endExtension()
      if (at === 5_000) dog.extendTimeout()
    },
    end: () => dog.close(),
  }
}

/** A member that cannot write for a while tries again, ever less often. */
function renewal(tell: Tell): Part {
  const state = { phase: 'idle' as const, epoch: 1, owner: 2, unfit: [] as number[] }
  const segments = { hasGrown: () => false, get: () => undefined }
  const machine = {
    state: () => state as never,
    dispatch: ({ type }: { type: string }) => tell(type),
    amidBulk: () => false,
  }
  new Renewal(machine, segments as never, () => 1)
  return {
    begin: () => {
      state.unfit = [2]
    },
    end: () => {
      state.unfit = []
    },
  }
}

function gradualLeave(tell: Tell): Part {
  const leave = new GradualLeave<number>(one => tell('ends', one))
  return { begin: () => leave.within([1, 2, 3, 4, 5], 2_000), end: () => leave.stop() }
}

/** A rollback that fails: this process serves on. */
function failedRollback(tell: Tell): Part {
  const shutdown = new Shutdown()
  const show = () => {
    const { closing, ended, handsBack, isRetired, reason, requestedBy, rollsBack, yields } = shutdown
    const why = [shutdown.whyLeft(true), shutdown.whyLeft(false)]
    tell({ closing, ended, handsBack, isRetired, reason, requestedBy, rollsBack, why, yields })
  }
  return {
    begin: () => {
      show()
      shutdown.rollsBack = true
      shutdown.requestedBy = 'an operator'
      shutdown.close()
      show()
    },
    end: () => {
      shutdown.reopen()
      show()
    },
  }
}

/** Connections end, and come back; work goes on until its time is over. */
function drain(tell: Tell): Part {
  let isIdle = true
  const cut = (tls: boolean) => {
    tell(tls ? 'cut tls' : 'cut')
    return { idle: 0, busy: 0 }
  }
  const listener = {
    connections: 0,
    hasTlsConnections: true,
    finish: () => {},
    endIdle: async () => {},
    emptied: async () => {},
    cut,
    cutReturned: () => ({ idle: 0, busy: 0 }),
  }
  const made = new ConnectionDrain({
    settings: { drainTimeout: 2_000, drainTlsTimeout: 4_000, logger: SILENT },
    shutdown: { isRetired: true, order: new EndOrder() },
    listeners: () => [listener as never],
    moves: { leave: () => {}, limit: () => {}, settled: async () => {}, whenArrived: act => act() },
    onCut: () => {},
    onEnded: () => tell('ended'),
  })
  made.onLastCall = () => tell('last call')
  made.stayWhile(() => !isIdle)
  return {
    begin: () => {
      isIdle = false
      void made.run(true).then(() => tell('over'))
    },
    end: () => {
      isIdle = true
    },
  }
}

function timers(tell: Tell): Part {
  const made = new Timers({
    elapsed: (timer, version, ms) => tell(timer, version, ms),
    backedOff: () => tell('backed off'),
  })
  return {
    begin: () => {
      made.start('ready' as never, 1, 1_000)
      made.start('stop' as never, 2, 2_000)
      made.backOff(100, 3)
      tell(made.remaining)
    },
    during: at => {
      if (at === 1_500) made.forget(2)
    },
    end: () => made.close(),
  }
}

function pause(tell: Tell): Part {
  const made = new Pause()
  const peer = peerWith()
  return {
    begin: () => made.start(),
    during: at => {
      if (at % 1_000 === 0) made.do(peer, () => tell('work of', at))
    },
    end: () => {
      made.end()
      made.do(peer, () => tell('work of now'))
    },
  }
}

interface Row {
  readonly name: string
  readonly make: (tell: Tell) => Part
  /** Milliseconds until the part has done the work that its end begins. */
  readonly rests?: number
  /** The part has a timer from its construction on. */
  readonly keepsTimer?: boolean
}

const PARTS: readonly Row[] = [
  { name: 'the probation of a successor that is well', make: tell => probation(tell, WHOLE_MS) },
  { name: 'the probation of a successor that hangs', make: tell => probation(tell, 600) },
  { name: 'the heartbeats', make: heartbeat },
  { name: 'the look for a seal', make: sealWatch },
  { name: 'the watch of a successor that changes wait for', make: successorWatch },
  { name: 'the messages to a watchdog', make: watchdog },
  { name: 'the attempts to write again', make: renewal, rests: 2_000, keepsTimer: true },
  { name: 'the gradual end of connections', make: gradualLeave },
  { name: 'a rollback that fails', make: failedRollback },
  { name: 'the drain of connections', make: drain, rests: 100 },
  { name: 'the timers of the versions of run', make: timers },
  { name: 'the pause of the services of a daemon', make: pause },
]

/** Plays a life, and returns everything that the part told, each with its time. */
async function live(part: Part, told: [number, ...unknown[]][], ms: number): Promise<unknown[]> {
  const before = told.length
  const began = performance.now()
  part.begin()
  for (let at = STEP_MS; at <= ms; at += STEP_MS) {
    await vi.advanceTimersByTimeAsync(STEP_MS)
    part.during?.(at)
  }
  part.end()
  return told.slice(before).map(([at, ...words]) => [Math.round(at - began), ...words])
}

/** A life that ends amid everything that takes a while. */
const CUT_SHORT = { ms: 730, rests: 4_000 }

const LIVES = fc.array(
  fc.record({ ms: fc.oneof(fc.nat(1_000), fc.nat(WHOLE_MS), fc.constant(WHOLE_MS)), rests: fc.nat(20_000) }),
  { minLength: 1, maxLength: 3 },
)

it.each(PARTS)(
  '$name: the second time as the first, whatever was before',
  async ({ make, rests = 0, keepsTimer }) => {
    const begun = () => {
      const told: [number, ...unknown[]][] = []
      return { told, part: make((...words) => told.push([performance.now(), ...words])) }
    }
    const property = fc.asyncProperty(LIVES, async lives => {
      vi.useFakeTimers()
      const fresh = begun()
      const first = await live(fresh.part, fresh.told, WHOLE_MS)
      await vi.advanceTimersByTimeAsync(rests)
      vi.clearAllTimers()
      const made = performance.now()
      const { part, told } = begun()
      for (const { ms, rests: more } of lives) {
        await live(part, told, ms)
        await vi.advanceTimersByTimeAsync(rests)
        if (!keepsTimer) expect(vi.getTimerCount(), 'the timers after its end').toBe(0)
        // A timer of a second that goes on elapses when the part begins again.
        const spent = Math.round(performance.now() - made) + more
        await vi.advanceTimersByTimeAsync(more + 1_000 - (spent % 1_000))
      }
      expect(await live(part, told, WHOLE_MS)).toEqual(first)
      vi.useRealTimers()
    })
    await fc.assert(property, { numRuns: perLane(2, 200), examples: [[[CUT_SHORT]]] })
  },
)
