import { readdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { NIGHTLY } from '../lanes/lane.js'
import { openFds } from '../processes/descriptors.js'
import { Scene } from '../processes/scene.js'
import { pause } from '../processes/until.js'

const UPGRADES = Number(process.env.FDB_UPGRADES ?? 40)

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!
}

/** Descriptors that stay: one of the moment, such as that of the tool which has just had its answer, is not there when it is looked again. */
async function lastingFds(pid: number): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let look = 0; look < 5; look++) {
    least = Math.min(least, openFds(pid).length)
    await pause(20)
  }
  return least
}

describe.runIf(NIGHTLY)('many upgrades in a row', () => {
  it(`leave generation ${UPGRADES} with the holdings of generation 10`, {
    timeout: 180_000 + UPGRADES * 5_000,
  }, async () => {
    const scene = Scene.open({
      upgrade: { probation: 0, heartbeat: 50 },
      listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }],
    })
    const reports: StatusReport[] = []
    const lasting: number[] = []
    let current = await scene.serve({ routes: 1_000 })
    for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
      // Changes to what is there: the log must not grow with them.
      await current.order('many', { count: 1_000 })
      const next = await scene.serve()
      await current.end()
      const { blockedBy } = await scene.status()
      expect(blockedBy).toEqual([])
      // Compacted in the background.
      reports.push(
        await scene.statusWhere(
          'it has settled',
          ({ phase, state }) => phase === 'idle' && state.segments === 2,
        ),
      )
      lasting.push(await lastingFds(next.pid))
      current = next
    }
    const tenth = reports[9]!
    const last = reports.at(-1)!
    expect(last.generation).toBe(UPGRADES + 1)
    const held = (from: number) => median(lasting.slice(from, from + 5))
    expect(held(UPGRADES - 5)).toBe(held(7))
    expect(last.state.segments).toBe(tenth.state.segments)
    expect(last.state.bytes).toBeLessThanOrEqual(tenth.state.bytes * 1.05)
    const rss = (from: number) => median(reports.slice(from, from + 5).map(report => report.rssBytes!))
    expect(rss(UPGRADES - 5)).toBeLessThanOrEqual(rss(7) * 1.05)
    expect(readdirSync(dirname(scene.control)).sort()).toEqual([
      'upgrade.sock',
      'upgrade.sock.events',
      'upgrade.sock.lock',
    ])
  })
})
