import type { ScheduledScenario } from './scheduled.js'
import type { ServiceRun, ServiceScenario } from './service.js'

const PROBATION_MS = 3_000
const STOP_MS = 4_000
const UPGRADE_MS = 25_000
const CALM_MS = 1_000

/** An operator orders a rollback soon after an upgrade. */
function rollback(hosting: ServiceScenario['hosting']): ServiceScenario {
  return {
    hosting,
    probation: PROBATION_MS,
    before: run => void run.upgrade(),
    during: run => run.rollBack(),
  }
}

/** The next version is stopped when it is ready: the upgrade fails, and a change waits no longer than at the first time. */
function stoppedUpgrade(run: ServiceRun): void {
  run.onReady = p => run.world.stop(p, STOP_MS)
  // The answer is the error of the stopped version, whatever else happens.
  run.order('upgrade')
  run.onReady = () => {}
  run.world.run(() => false, STOP_MS + CALM_MS)
}

/** The scenarios with workers, and with `fd-broker run`. */
export const SCHEDULED: Readonly<Record<string, ScheduledScenario>> = {
  /** All workers are replaced. */
  workers: { hosting: 'workers', forMs: 4_000, acts: [{ what: 'upgrade', when: { ms: 0 } }] },
  /** A worker dies while the workers are replaced. */
  'worker-dies': {
    hosting: 'workers',
    forMs: 5_000,
    acts: [
      { what: 'upgrade', when: { ms: 0 } },
      { what: 'dies', part: 'worker 1', when: { after: '0.2', steps: 5 } },
    ],
  },
  /** A next main process takes over. */
  'next-main': { hosting: 'workers', forMs: 3_000, acts: [{ what: 'start', when: { ms: 0 } }] },
  /** A next version replaces the present one. */
  run: { hosting: 'run', forMs: 6_000, acts: [{ what: 'upgrade', when: { ms: 0 } }] },
  /** A next version crashes, and then the present one does and is started again. */
  'run-restarts': {
    hosting: 'run',
    forMs: 4_000,
    acts: [
      { what: 'bad', manner: 'crashes', ms: 1_000, when: { ms: 0 } },
      { what: 'upgrade', when: { ms: 1 } },
      { what: 'dies', part: 'newest', code: 1, when: { ms: 2_000 } },
    ],
  },
  /** The process of `fd-broker run` is killed, and starts again. */
  'run-starts': {
    hosting: 'run',
    forMs: 3_000,
    acts: [{ what: 'dies', part: 'run', code: null, when: { ms: 0 } }],
  },
}

/** The scenarios of the rule: fixed, short, and without another trouble than that of a point. */
export const SCENARIOS: Readonly<Record<string, ServiceScenario>> = {
  /** The present version starts the next one, and the connections of clients move to it. */
  embedded: { hosting: 'embedded', during: run => void run.upgrade(), repeats: true },
  daemon: { hosting: 'daemon', during: run => void run.upgrade(), repeats: true },
  /** An operator takes the upgrade back in the probation. */
  rollback: rollback('embedded'),
  'daemon-rollback': rollback('daemon'),
  /** The next version is stopped when connections begin to move to it, and an operator takes the upgrade back: connections return. */
  'taken-back': {
    hosting: 'embedded',
    probation: PROBATION_MS,
    during(run) {
      let isTakenBack = false
      run.onCommit = () => {
        run.world.stop(run.versions.get('B')!.p, STOP_MS)
        run.give('rollback')
        isTakenBack = true
      }
      run.give('upgrade')
      run.world.run(() => isTakenBack, UPGRADE_MS)
      run.world.run(() => false, STOP_MS + CALM_MS)
    },
  },
  /** All processes of the machine were killed, and a version starts with the state file. */
  start: {
    hosting: 'embedded',
    before: run => run.world.kill(run.versions.get('A')!.p, 'is killed'),
    during(run) {
      const B = run.start()
      run.world.run(() => B.hasServed || B.p.dead, UPGRADE_MS)
      // A connection: the control socket can then reserve the descriptor that it lacked.
      if (!B.p.dead) run.order('status')
    },
  },
  /** Two upgrades, one after the other, fail because the next version is stopped. */
  'stopped-again': { hosting: 'embedded', before: stoppedUpgrade, during: stoppedUpgrade },
  'next-daemon': { hosting: 'daemon', during: run => void run.upgrade('upgrade daemon'), repeats: true },
}

export const ALL_SCENARIOS: readonly string[] = [...Object.keys(SCENARIOS), ...Object.keys(SCHEDULED)]
/** The scenarios whose act can be repeated. */
export const REPEATED: readonly string[] = Object.keys(SCENARIOS).filter(name => SCENARIOS[name]!.repeats)
