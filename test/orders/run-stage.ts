import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { ORDERED_MS } from './given.js'
import * as operators from './operators.js'
import type { Stage } from './stage.js'

const OPTIONS = ['--ready', 'fd', '--ready-timeout', '10m', '--stop-timeout', '10m'] as const

interface RunPhase {
  /** Completes the sentence "`fd-broker run` …". */
  readonly about: string
  /** Resolves when the supervisor is in this phase, with the pid of the version that serves, or 0. */
  reach(): Promise<{ readonly run: Supervised; readonly serving: number }>
}

async function start(orders: object, ...options: string[]): Promise<Supervised> {
  const run = await Supervised.prepare()
  await run.launch([...OPTIONS, ...options], [SERVER], { FDB_SUPERVISED: run.orders(orders) })
  return run
}

function inPhase(run: Supervised, phase: string): Promise<unknown> {
  return until(`the phase is ${phase}`, async () => (await run.status().catch(() => null))?.phase === phase)
}

function upgradeTo(run: Supervised, orders: object): Promise<unknown> {
  return operators.upgrade(run.control, { argv: ['env', `FDB_SUPERVISED=${run.orders(orders)}`, SERVER] })
}

export const RUN_PHASES = {
  starting: {
    about: 'has started its first version, which is not ready',
    reach: async () => {
      const run = await start({ fail: true })
      await inPhase(run, 'starting')
      return { run, serving: 0 }
    },
  },
  serving: {
    about: 'has one version, which serves',
    reach: async () => {
      const run = await start({}, '--probation', '0s')
      return { run, serving: await run.serving() }
    },
  },
  replacing: {
    about: 'has a version that serves, and has started the next one, which is not ready',
    reach: async () => {
      const run = await start({}, '--probation', '0s')
      const serving = await run.serving()
      upgradeTo(run, { fail: true }).catch(() => {})
      await inPhase(run, 'starting')
      return { run, serving }
    },
  },
  probation: {
    about: 'has replaced a version by one that is in its probation',
    reach: async () => {
      const run = await start({}, '--probation', '10m')
      const elder = await run.serving()
      await upgradeTo(run, {})
      await run.ended(elder)
      return { run, serving: await run.serving(2) }
    },
  },
  retiring: {
    about: 'has replaced a version, which was told to end and does not',
    reach: async () => {
      const run = await start({ deaf: true }, '--probation', '0s')
      await run.serving()
      await upgradeTo(run, {})
      await run.says(' TERM')
      return { run, serving: await run.serving(2) }
    },
  },
  ending: {
    about: 'was told to end, as its program was, which does not',
    reach: async () => {
      const run = await start({ deaf: true }, '--probation', '0s')
      const serving = await run.serving()
      await operators.stop(run.control, null)
      await run.says(' TERM')
      return { run, serving }
    },
  },
} as const satisfies Readonly<Record<string, RunPhase>>

interface RunOrder {
  readonly about: string
  give(run: Supervised): Promise<unknown>
  readonly undo?: (run: Supervised) => void
}

function signal(name: NodeJS.Signals): RunOrder['give'] {
  return async run => run.signal(name)
}

export const RUN_ORDERS = {
  TERM: { about: 'SIGTERM', give: signal('SIGTERM') },
  INT: { about: 'SIGINT', give: signal('SIGINT') },
  QUIT: { about: 'SIGQUIT', give: signal('SIGQUIT') },
  HUP: { about: 'SIGHUP, the signal to upgrade', give: signal('SIGHUP') },
  stop: {
    about: '`fd-broker stop`',
    give: run => operators.stop(run.control, null),
  },
  'stop --drain': {
    about: '`fd-broker stop --drain 1s`, or another short time',
    give: run => operators.stop(run.control, ORDERED_MS),
  },
  upgrade: { about: '`fd-broker upgrade`', give: run => upgradeTo(run, {}) },
  rollback: { about: '`fd-broker rollback`', give: run => operators.rollback(run.control) },
  reload: { about: '`fd-broker reload`', give: run => operators.reload(run.control) },
  status: { about: '`fd-broker status`', give: run => run.status() },
  death: {
    about: 'SIGKILL',
    give: async run => {
      run.signal('SIGKILL')
      await run.ended()
    },
  },
  stopped: {
    about: 'SIGSTOP, and later SIGCONT',
    give: signal('SIGSTOP'),
    undo: run => run.signal('SIGCONT'),
  },
  continued: {
    about: 'SIGSTOP, and SIGCONT at once',
    give: async run => {
      run.signal('SIGSTOP')
      run.signal('SIGCONT')
    },
  },
} as const satisfies Readonly<Record<string, RunOrder>>

export type RunPhaseName = keyof typeof RUN_PHASES
export type RunOrderName = keyof typeof RUN_ORDERS

/** Brings `fd-broker run` into the phase. */
export async function runStage(phase: RunPhaseName, order: RunOrderName): Promise<Stage> {
  const { run, serving } = await RUN_PHASES[phase].reach()
  const { give, undo }: RunOrder = RUN_ORDERS[order]
  return {
    pid: run.pid,
    serving: [serving],
    url: run.url,
    removes: order === 'death' ? null : run.control,
    give: () => give(run),
    undo: () => undo?.(run),
    phase: async () => (await run.status()).phase,
    describe: () => run.output,
  }
}
