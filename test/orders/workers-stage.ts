import { whoServes } from '../processes/client.js'
import { type DaemonStatus, daemonStatus } from '../processes/daemon.js'
import { GatedWorkers, LONG_MS, WORKERS } from '../processes/gated-workers.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import type { MainStatus } from '../processes/workers.js'
import { ORDERED_MS } from './given.js'
import * as operators from './operators.js'
import type { Stage } from './stage.js'

interface Reached {
  readonly main: GatedWorkers
  /** The workers that serve. */
  readonly serving: readonly number[]
  /** The worker that an order to a worker reaches. */
  readonly worker: number
  readonly release?: () => void
}

interface WorkersPhase {
  /** Completes the sentence "The process …". */
  readonly about: string
  readonly heldBy?: string
  /** Resolves when the main process is in this phase. */
  reach(order: WorkersOrderName): Promise<Reached>
}

export const WORKERS_PHASES = {
  serving: {
    about: 'is the main process of workers that serve',
    reach: async () => {
      const main = await GatedWorkers.start()
      const serving = await main.serving()
      return { main, serving, worker: serving[1] }
    },
  },
  replacing: {
    about: 'is the main process, and replaces its workers',
    heldBy: 'the next worker is ready',
    reach: async () => {
      const main = await GatedWorkers.start()
      const serving = await main.serving()
      main.shut()
      operators.replaceWorkers(main.control).catch(() => {})
      await main.waits()
      return { main, serving, worker: serving[0], release: () => main.open() }
    },
  },
  probation: {
    about: 'is the main process; previous workers stand by',
    reach: async order => {
      // The silence of a worker that is stopped is noticed.
      const limits = order === 'stop of a worker' ? { silence: 3_000 } : {}
      const main = await GatedWorkers.start({ probation: LONG_MS, ...limits })
      await operators.replaceWorkers(main.control)
      const serving = await main.serving()
      return { main, serving, worker: serving[1] }
    },
  },
  ending: {
    about: 'is the main process, was told to end, and its workers drain',
    heldBy: 'the last connection has ended',
    reach: async () => {
      const main = await GatedWorkers.start()
      const serving = await main.serving()
      const [worker, other] = serving
      const { end } = await main.hold(worker)
      await operators.stop(main.control, null)
      await until('the other worker has ended', () => hasEnded(other))
      await until('the main process ends', async () => (await phaseOf(main)) === 'draining')
      // The worker closes its listener a moment later: until then clients wait there, also while the worker is stopped.
      await until('clients are refused', () => whoServes(main.url).then(() => false, isRefused))
      return { main, serving, worker, release: end }
    },
  },
} as const satisfies Readonly<Record<string, WorkersPhase>>

interface WorkersOrder {
  readonly about: string
  give(reached: Reached): Promise<unknown>
  readonly undo?: (reached: Reached) => void
}

function operator(act: (control: string) => Promise<unknown>): WorkersOrder['give'] {
  return ({ main }) => act(main.control)
}

async function kill(pid: number): Promise<void> {
  signalPid(pid, 'SIGKILL')
  await until(`process ${pid} has ended`, () => hasEnded(pid))
}

export const WORKERS_ORDERS = {
  TERM: { about: 'SIGTERM', give: async ({ main }) => signalPid(main.pid, 'SIGTERM') },
  INT: { about: 'SIGINT', give: async ({ main }) => signalPid(main.pid, 'SIGINT') },
  stop: { about: '`fd-broker stop`', give: operator(control => operators.stop(control, null)) },
  'stop --drain': {
    about: '`fd-broker stop --drain 1s`, or another short time',
    give: operator(control => operators.stop(control, ORDERED_MS)),
  },
  upgrade: { about: '`fd-broker upgrade`', give: operator(control => operators.upgrade(control)) },
  set: {
    about: '`fd-broker workers set`',
    give: operator(control => operators.setWorkers(control, WORKERS + 1)),
  },
  reload: { about: '`fd-broker reload`', give: operator(control => operators.reload(control)) },
  status: { about: '`fd-broker status`', give: operator(operators.askStatus) },
  death: { about: 'SIGKILL', give: ({ main }) => kill(main.pid) },
  'death of a worker': { about: 'SIGKILL of a worker', give: ({ worker }) => kill(worker) },
  'stop of a worker': {
    about: 'SIGSTOP of a worker, and later SIGCONT',
    give: async ({ worker }) => signalPid(worker, 'SIGSTOP'),
    undo: ({ worker }) => signalPid(worker, 'SIGCONT'),
  },
} as const satisfies Readonly<Record<string, WorkersOrder>>

export type WorkersPhaseName = keyof typeof WORKERS_PHASES
export type WorkersOrderName = keyof typeof WORKERS_ORDERS

function isRefused(error: unknown): boolean {
  return (error as { code?: string }).code === 'ECONNREFUSED'
}

/** The phase of a main process as its status shows it; empty if it does not answer. */
async function phaseOf({ control }: GatedWorkers): Promise<string> {
  const status = await daemonStatus(control).catch(() => null)
  if (status === null) return ''
  const { services, workers } = status as DaemonStatus & MainStatus
  const phases = workers.all.map(({ phase }) => phase)
  if (phases.every(phase => phase === 'leaving')) return 'draining'
  if (phases.some(phase => phase !== 'serving')) return 'replacing'
  return services.some(({ phase }) => phase === 'probation') ? 'probation' : 'working'
}

/** Brings a main process of workers into the phase. */
export async function workersStage(phase: WorkersPhaseName, order: WorkersOrderName): Promise<Stage> {
  const { reach }: WorkersPhase = WORKERS_PHASES[phase]
  const reached = await reach(order)
  const { main, serving, release } = reached
  const { give, undo }: WorkersOrder = WORKERS_ORDERS[order]
  return {
    pid: main.pid,
    serving,
    url: main.url,
    removes: order === 'death' ? null : main.control,
    give: () => give(reached),
    undo: () => undo?.(reached),
    release: () => release?.(),
    phase: () => phaseOf(main),
    describe: () => main.sandbox.output,
  }
}
