import { fileURLToPath } from 'node:url'
import { FdbError } from '../../src/errors.js'
import type { App } from '../processes/app.js'
import * as operators from './operators.js'
import { FOR_EVER_MS, serviceOf, type World } from './world.js'

/** The time that an order gives, if it gives one. */
export const ORDERED_MS = 700
/** Longer than every silence that is not noticed, and shorter than a deadline. */
const BLOCKED_MS = 3_000
const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))

interface Order {
  /** Completes the sentence "The process is given …" or "An operator gives …". */
  readonly about: string
  /** The order goes to the process that serves, not to one that is named. */
  readonly toService?: true
  /** Resolves when the order has been carried out or has at least arrived. Rejects with the error of a refusal. */
  give(app: App, world: World): Promise<unknown>
  /** Undoes the order, so that the process goes on. */
  readonly undo?: (app: App) => unknown
}

async function signalled(app: App, signal: NodeJS.Signals, say?: string): Promise<void> {
  app.signal(signal)
  await (say === undefined ? app.end() : app.says(say))
}

/** The answer of `close` may not come, because the process ends. */
async function close(app: App, facts: object): Promise<void> {
  app.order('close', facts).catch(() => {})
  await app.order('phase').catch(() => {})
}

export const ORDERS = {
  'close()': { about: 'the application calls `close()`', give: app => close(app, {}) },
  'close({ timeout })': {
    about: 'the application calls `close()` with a short time',
    give: app => close(app, { timeout: ORDERED_MS }),
  },
  TERM: {
    about: 'SIGTERM, at which the application calls `close()` with a short time',
    give: app => signalled(app, 'SIGTERM', 'told to end'),
  },
  INT: { about: 'SIGINT, which the application does not handle', give: app => signalled(app, 'SIGINT') },
  QUIT: { about: 'SIGQUIT, which the application does not handle', give: app => signalled(app, 'SIGQUIT') },
  stop: {
    about: '`fd-broker stop`',
    toService: true,
    give: (_app, world) => operators.stop(world.scene.control, null, serviceOf(world)),
  },
  'stop --drain': {
    about: '`fd-broker stop --drain 1s`, or another short time',
    toService: true,
    give: (_app, world) => operators.stop(world.scene.control, ORDERED_MS, serviceOf(world)),
  },
  upgrade: {
    about: '`fd-broker upgrade`',
    toService: true,
    give: (app, world) => {
      const commands = world.scene.file('upgraded.sock')
      const facts = { ...app.config, name: 'upgraded', commands, folder: world.scene.folder, traps: {} }
      const { readyFile: _, workFile: __, ...next } = facts
      const argv = ['env', `FDB_APP=${JSON.stringify(next)}`, process.execPath, APP]
      return operators.upgrade(world.scene.control, { argv, service: serviceOf(world) })
    },
  },
  rollback: {
    about: '`fd-broker rollback`',
    toService: true,
    give: (_app, world) => operators.rollback(world.scene.control, serviceOf(world)),
  },
  reload: {
    about: '`fd-broker reload`',
    toService: true,
    give: (_app, world) => operators.reload(world.scene.control, serviceOf(world)),
  },
  status: {
    about: '`fd-broker status`',
    toService: true,
    give: (_app, world) => operators.askStatus(world.scene.control),
  },
  hold: {
    about: 'the application calls `hold()`',
    give: app => app.order('holdFile', { name: 'held' }),
  },
  listen: {
    about: 'the application calls `listen()` for one more address',
    give: app => app.order('serveMore', { name: 'more', spec: 'tcp://127.0.0.1:0' }),
  },
  unlisten: {
    about: 'the application calls `unlisten()` for one of its two listeners',
    give: app => app.order('unlisten', { name: 'secure' }),
  },
  pause: {
    about: 'the application calls `pause()`, and later `resume()`',
    give: app => app.order('pause'),
    undo: app => app.order('resume'),
  },
  change: {
    about: 'the application changes the state',
    give: app => app.order('put', { key: 'changed', value: { item: 'x' } }),
  },
  'durable change': {
    about: 'the application changes the state, and waits until the change is on the disk',
    give: app => app.order('put', { key: 'changed', value: { item: 'x' }, durable: true }),
  },
  death: { about: 'SIGKILL', give: app => app.kill() },
  stopped: {
    about: 'SIGSTOP, and later SIGCONT',
    give: async app => app.signal('SIGSTOP'),
    undo: app => app.signal('SIGCONT'),
  },
  continued: {
    about: 'SIGSTOP, and SIGCONT at once',
    give: async app => {
      app.signal('SIGSTOP')
      app.signal('SIGCONT')
      await app.order('phase')
    },
  },
  blocked: {
    about: `the application computes for ${BLOCKED_MS / 1_000} s without a turn of the event loop`,
    give: async app => {
      await app.order('stall', { ms: BLOCKED_MS })
      await app.says('stalled', FOR_EVER_MS)
    },
  },
} as const satisfies Readonly<Record<string, Order>>

export type OrderName = keyof typeof ORDERS

export function orderOf(name: OrderName): Order {
  return ORDERS[name]
}

/** Returns `done`, or the code of the refusal. */
export async function answerTo(given: Promise<unknown>): Promise<string> {
  try {
    await given
    return 'done'
  } catch (error) {
    const { code } = error as { code?: unknown }
    if (typeof code === 'string') return code
    throw FdbError.from(error)
  }
}
