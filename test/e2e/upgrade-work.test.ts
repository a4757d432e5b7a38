import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 300, heartbeat: 50 }

interface Line {
  readonly pid: number
  readonly what: 'start' | 'tick' | 'begin' | 'done' | 'stop'
  readonly job?: number
}

function journalOf(scene: Scene): () => Line[] {
  const file = scene.file('journal')
  return () =>
    existsSync(file)
      ? readFileSync(file, 'utf8')
          .split('\n')
          .filter(line => line !== '')
          .map(line => JSON.parse(line) as Line)
      : []
}

/** The processes that worked, in order, one entry for each time. */
function workers(lines: readonly Line[]): number[] {
  return lines.map(({ pid }) => pid).filter((pid, i, all) => pid !== all[i - 1])
}

function begun(lines: readonly Line[]): number[] {
  return lines.filter(({ what }) => what === 'begin').map(({ job }) => job!)
}

async function workOf(app: App, lines: () => Line[], jobs = 2): Promise<void> {
  await until(`${app.name} has done ${jobs} jobs`, () => {
    const own = lines().filter(({ pid, what }) => pid === app.pid && what === 'done')
    return own.length >= jobs
  })
}

for (const hosting of perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon'])) {
  describe(`cron jobs and queues across upgrades (${hosting})`, () => {
    const open = async (upgrade = UPGRADE) => {
      const scene = Scene.open({ hosting, upgrade })
      if (hosting === 'daemon') await startDaemon(scene, { upgrade })
      return { scene, work: scene.file('journal'), lines: journalOf(scene) }
    }

    it('run in one process at a time, and begin no job twice, over three upgrades', async () => {
      const { scene, work, lines } = await open()
      const apps = [await scene.serve({ work })]
      for (let upgrade = 1; upgrade <= 3; upgrade++) {
        await workOf(apps.at(-1)!, lines)
        const next = await scene.serve({ work })
        await workOf(next, lines)
        await apps.at(-1)!.end()
        apps.push(next)
      }
      apps.at(-1)!.signal('SIGTERM')
      await apps.at(-1)!.end()
      const all = lines()
      expect(workers(all)).toEqual(apps.map(({ pid }) => pid))
      const jobs = begun(all)
      expect(jobs).toEqual(jobs.map((_, i) => i + 1))
      expect(all.filter(({ what }) => what === 'done')).toHaveLength(jobs.length)
      for (const app of apps)
        expect(app.story.filter(say => ['serving', 'retiring', 'resumed'].includes(say))).toEqual([
          'serving',
          'retiring',
        ])
    })

    it('go on in the new process when the old one dies within its probation', async () => {
      const { scene, work, lines } = await open({ ...UPGRADE, probation: 60_000 })
      const first = await scene.serve({ work })
      await workOf(first, lines)
      const second = await scene.serve({ work })
      await workOf(second, lines)
      first.signal('SIGKILL')
      await first.end()
      const done = lines().filter(({ pid, what }) => pid === second.pid && what === 'done').length
      await workOf(second, lines, done + 3)
      expect(workers(lines())).toEqual([first.pid, second.pid])
    })

    for (const phase of ['quiescing', 'preparing'] as const) {
      it(`go on in the old process when its successor dies in phase ${phase}`, async () => {
        const { scene, work, lines } = await open()
        const trap = { [`holder ${phase}`]: 'SIGKILL successor' } as const
        const first = await scene.serve({ work, ...(hosting === 'embedded' && { traps: trap }) })
        await workOf(first, lines)
        const second = await scene.start({
          work,
          ...(hosting === 'daemon' && { traps: { 'member ready': 'SIGKILL' } as const }),
        })
        await first.says('resumed')
        await second.end()
        await workOf(first, lines, 4)
        expect(workers(lines())).toEqual([first.pid])
        const jobs = begun(lines())
        expect(jobs).toEqual(jobs.map((_, i) => i + 1))
        expect(first.find('retiring')).toBeUndefined()
      })
    }
  })
}
