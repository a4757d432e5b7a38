import { writeFileSync } from 'node:fs'
import type { App } from '../processes/app.js'
import { until } from '../processes/until.js'
import { rollback } from './operators.js'
import { FOR_EVER_MS, inPhase, type MemberHosting, serviceOf, type World } from './world.js'

/** A process in a phase, where it stays until the hook that holds it there is released. */
export interface Reached {
  /** The process that gets the order. */
  readonly app: App
  /** Lets the process go on. Absent if no hook holds the process in the phase. */
  readonly release?: () => void
}

interface Phase {
  /** Completes the sentence "The process …". */
  readonly about: string
  /** The event for which the hook makes the process wait. */
  readonly heldBy?: string
  readonly only?: MemberHosting
  /** Limits of the handoff, other than the usual ones. */
  readonly upgrade?: Readonly<Record<string, number>>
  /** Limits of the drain, other than the usual ones. */
  readonly drain?: Readonly<Record<string, number>>
  /** An order has its answer and its effect within this time, in milliseconds. */
  readonly latestMs?: number
  /** The process answers operators. */
  readonly serves?: true
  reach(world: World, occupied: boolean): Promise<Reached>
}

/** A stopped successor is noticed after some heartbeats. */
const RARE_BEATS = { heartbeat: 15_000 }
const NO_PROBATION = { probation: 0 }
/** An upgrade is not refused because of the probation. */
const SHORT_PROBATION = { probation: FOR_EVER_MS - 10_000 }

/** A version whose `ready()` waits for a file. Returns a function that makes the file. */
async function startUnready(world: World): Promise<{ joiner: App; letReady: () => void }> {
  const readyFile = world.scene.file('ready')
  const joiner = await world.start({ readyFile })
  await joiner.says('waits for its file')
  return { joiner, letReady: () => writeFileSync(readyFile, '') }
}

/** A version that waits for a file when its work must end, and the next one, which is ready. */
async function startQuiescing(world: World) {
  const workFile = world.scene.file('work')
  const incumbent = await world.serve({ workFile })
  const joiner = await world.start()
  await incumbent.says('ends its work')
  return { incumbent, joiner, release: () => writeFileSync(workFile, '') }
}

/** Waits until the serving process knows that the previous version stands by, and for how long. A daemon knows that at once. */
async function stoodBy({ hosting, scene }: World): Promise<void> {
  if (hosting === 'embedded')
    await scene.statusWhere('the previous version stands by', ({ draining = [] }) =>
      draining.some(({ phase }) => phase === 'standby'),
    )
}

export const PHASES = {
  joining: {
    about: 'has joined as the next version, and is not ready',
    heldBy: 'it is ready',
    reach: async world => {
      await world.serve()
      const { joiner, letReady } = await startUnready(world)
      return { app: joiner, release: letReady }
    },
  },
  ready: {
    about: 'is the next version, and ready; the previous one ends its work',
    heldBy: 'that work has ended',
    reach: async world => {
      const { joiner, release } = await startQuiescing(world)
      return { app: await inPhase(joiner, 'ready'), release }
    },
  },
  offering: {
    about: 'serves; a next version has joined, and is not ready',
    heldBy: 'the next version is ready',
    serves: true,
    reach: async (world, occupied) => {
      const incumbent = await world.serve()
      if (occupied) await world.occupy()
      const { letReady } = await startUnready(world)
      return { app: incumbent, release: letReady }
    },
  },
  quiescing: {
    about: 'serves, and ends its work for a next version that is ready',
    heldBy: 'that work has ended',
    serves: true,
    reach: async world => {
      const { incumbent, release } = await startQuiescing(world)
      return { app: incumbent, release }
    },
  },
  preparing: {
    about: 'writes no more; the next version reads the last changes',
    heldBy: 'the next version has read them',
    upgrade: RARE_BEATS,
    serves: true,
    reach: async (world, occupied) => {
      const incumbent = await world.serve()
      if (occupied) await world.occupy()
      const joiner = await world.start({ traps: { 'member ready': 'SIGSTOP' } })
      await joiner.says('trapped')
      return { app: await inPhase(incumbent, 'frozen'), release: () => joiner.signal('SIGCONT') }
    },
  },
  committing: {
    about: 'has sent the Commit; the next version begins to serve',
    heldBy: 'the next version serves',
    upgrade: RARE_BEATS,
    serves: true,
    reach: async world => {
      const incumbent = await world.serve()
      const joiner = await world.start({ traps: { 'member beginning': 'SIGSTOP' } })
      await joiner.says('trapped')
      return { app: incumbent, release: () => joiner.signal('SIGCONT') }
    },
  },
  serving: {
    about: 'serves alone',
    serves: true,
    reach: async (world, occupied) => {
      const only = await world.serve()
      if (occupied) await world.occupy()
      return { app: only }
    },
  },
  probation: {
    about: 'serves; the previous version stands by',
    serves: true,
    reach: async (world, occupied) => {
      const elder = await world.serve()
      const successor = await world.serve()
      await inPhase(elder, 'standby')
      await stoodBy(world)
      if (occupied) await world.occupy()
      return { app: successor }
    },
  },
  receiving: {
    about: 'serves; the previous version stands by, and its connections move to this one',
    drain: { firstWave: 0, movesPerSecond: 4 },
    // Less than the time of the drain, for which an order to end must not wait.
    latestMs: FOR_EVER_MS / 2,
    serves: true,
    reach: async world => {
      const elder = await world.serve()
      await world.connectMany()
      const successor = await world.serve()
      await inPhase(elder, 'standby')
      await stoodBy(world)
      await world.movesBegin()
      return { app: successor }
    },
  },
  returning: {
    about: 'serves, was rolled back, and ends its work; the previous version stands by',
    heldBy: 'that work has ended',
    upgrade: SHORT_PROBATION,
    serves: true,
    reach: async world => {
      const elder = await world.serve()
      const workFile = world.scene.file('work')
      const successor = await world.serve({ workFile })
      await inPhase(elder, 'standby')
      await stoodBy(world)
      rollback(world.scene.control, serviceOf(world)).catch(() => {})
      await successor.says('ends its work')
      return { app: successor, release: () => writeFileSync(workFile, '') }
    },
  },
  returned: {
    about: 'serves again; the next version was rolled back, and has ended',
    serves: true,
    reach: async (world, occupied) => {
      const elder = await world.serve()
      const successor = await world.serve()
      await inPhase(elder, 'standby')
      await stoodBy(world)
      await rollback(world.scene.control, serviceOf(world))
      await inPhase(elder, 'serving')
      await until('the next version has ended', () => successor.ended)
      if (occupied) await world.occupy()
      return { app: elder }
    },
  },
  standby: {
    about: 'stands by; the next version serves',
    reach: async (world, occupied) => {
      const elder = await world.serve()
      if (occupied) await world.occupy()
      await world.serve()
      await inPhase(elder, 'standby')
      await stoodBy(world)
      return { app: elder }
    },
  },
  leaving: {
    about: 'was replaced, and waits for its last connections',
    heldBy: 'its last connection has ended',
    upgrade: NO_PROBATION,
    reach: async world => {
      const elder = await world.serve()
      await world.occupy()
      await world.serve()
      return { app: await inPhase(elder, 'leaving'), release: () => world.vacate() }
    },
  },
  ending: {
    about: 'was told to end, has no next version, and waits for its last connections',
    heldBy: 'its last connection has ended',
    reach: async world => {
      const only = await world.serve()
      await world.occupy()
      // The process answers requests before it leaves a daemon, except in the last 5 s of its time.
      const timeout = world.hosting === 'daemon' ? 10_000 : FOR_EVER_MS
      only.order('close', { timeout }).catch(() => {})
      return { app: await inPhase(only, 'leaving'), release: () => world.vacate() }
    },
  },
  unfit: {
    about: 'serves reads, because it cannot read what the next version wrote before it died',
    serves: true,
    reach: async (world, occupied) => {
      const elder = await world.serve({ schema: { version: 1 } })
      if (occupied) await world.occupy()
      const successor = await world.serve({ schema: { version: 2, minReader: 2 } })
      await inPhase(elder, 'standby')
      await successor.order('put', { key: 'new', value: { item: 'x' } })
      await successor.kill()
      return { app: await inPhase(elder, 'unfit') }
    },
  },
  orphan: {
    about: 'stood by, and accepts because the daemon is dead',
    only: 'daemon',
    reach: async (world, occupied) => {
      const elder = await world.serve()
      if (occupied) await world.occupy()
      await world.serve()
      await inPhase(elder, 'standby')
      await world.daemon!.kill()
      return { app: await inPhase(elder, 'orphan') }
    },
  },
  gone: {
    about: 'has left the service, and lives on',
    upgrade: NO_PROBATION,
    reach: async world => {
      const elder = await world.serve({ keepsOrders: true })
      await world.serve()
      return { app: await inPhase(elder, 'gone') }
    },
  },
} as const satisfies Readonly<Record<string, Phase>>

export type MemberPhaseName = keyof typeof PHASES

export function phaseOf(name: MemberPhaseName): Phase {
  return PHASES[name]
}
