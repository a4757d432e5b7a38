import { ORDERED_MS, type OrderName, orderOf } from './given.js'
import { type MemberPhaseName, phaseOf } from './phases.js'
import type { Stage } from './stage.js'
import { FOR_EVER_MS, type MemberHosting, SLOW, World } from './world.js'

/** Brings a process of the library into the phase. The processes keep their state in a file, and end within a short time at TERM. */
export async function memberStage(
  hosting: MemberHosting,
  phase: MemberPhaseName,
  order: OrderName,
): Promise<Stage> {
  const limits = { timeout: FOR_EVER_MS, upgrade: { ...SLOW, ...phaseOf(phase).upgrade } }
  const drain = { timeout: FOR_EVER_MS, tlsTimeout: FOR_EVER_MS, ...phaseOf(phase).drain }
  const world = await World.open(hosting, { ...limits, drain, endWithin: ORDERED_MS, reloads: true }, true)
  const { app, release } = await phaseOf(phase).reach(world, false)
  const { give, undo } = orderOf(order)
  return {
    pid: app.pid,
    latestMs: phaseOf(phase).latestMs,
    serving: [app.pid],
    url: world.url,
    removes: order === 'death' || hosting === 'daemon' ? null : world.scene.control,
    give: () => give(app, world),
    undo: () => undo?.(app),
    release: () => release?.(),
    phase: () => app.order<string>('phase'),
    describe: () => world.scene.apps.map(({ name, output }) => `--- ${name}\n${output}`).join('\n'),
  }
}
