import { expect, onTestFinished } from 'vitest'
import type { LoadReport } from '../../bench/referee/load.mjs'
import { spawnLoad } from '../../bench/referee/remote.mjs'
import { LOSSES } from '../../bench/referee/verdicts.mjs'
import { until } from './until.js'

type LoadOptions = Omit<Parameters<typeof spawnLoad>[0], 'target'>

/** Right answers of one process since the last mark. */
export function answersBy(load: ReturnType<typeof spawnLoad>, pid: number): number {
  const { generations = {} } = load.snapshot()?.phase ?? {}
  return Object.entries(generations).reduce(
    (sum, [id, count]) => (id.endsWith(`/${pid}`) ? sum + count : sum),
    0,
  )
}

/** The load referee in a process of its own, ended with the test. Resolves when it is being answered. */
export async function loadOn(target: string, options: LoadOptions = {}) {
  const load = spawnLoad({
    target,
    rate: 300,
    routes: 100,
    lines: 8,
    idleEveryMs: 1_000,
    every: 50,
    // An answer that does not come at all, and not one of a machine that stands still for seconds.
    deadlineMs: 30_000,
    // The kernel queues 511 connections for a server of Node, and resets some of those that a machine that stands still for seconds adds to them.
    freshMost: 256,
    ...options,
  })
  onTestFinished(() => {
    load.kill()
  })
  // A process starts here, and gives 50 answers.
  await until('the load is answered', () => (load.snapshot()?.answered ?? 0) > 50, 60_000)
  return {
    mark: (name: string) => load.mark(name),
    /** This process has given so many answers since the last mark. */
    answeredBy: (pid: number, count = 1) =>
      until(
        `${count} answers by ${pid}`,
        () => answersBy(load, pid) >= count,
        20_000,
        () => load.snapshot(),
      ),
    /** Ends it; no request may have been lost, but in the ways that are `allowed`. */
    async stop(allowed: readonly (typeof LOSSES)[number][] = []): Promise<LoadReport> {
      const report = await load.stop()
      const losses = LOSSES.filter(kind => report.total.counts[kind] > 0 && !allowed.includes(kind))
      expect({
        losses,
        incidents: report.incidents.filter(incident => losses.includes(incident.kind as never)),
      }).toEqual({
        losses: [],
        incidents: [],
      })
      return report
    },
  }
}
