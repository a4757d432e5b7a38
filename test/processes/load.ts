import { expect, onTestFinished } from 'vitest'
import { LOSSES } from '../../bench/load/kinds.mjs'
import type { LoadReport } from '../../bench/load/load.mjs'
import { spawnLoad } from '../../bench/load/remote.mjs'
import { until } from './until.js'

type LoadOptions = Omit<Parameters<typeof spawnLoad>[0], 'target'>

/** The load referee in a process of its own, ended with the test. Resolves when it is being answered. */
export async function loadOn(target: string, options: LoadOptions = {}) {
  const load = spawnLoad({
    target,
    rate: 300,
    routes: 100,
    lines: 8,
    idleEveryMs: 1_000,
    every: 50,
    ...options,
  })
  onTestFinished(() => {
    load.kill()
  })
  await until('the load is answered', () => (load.snapshot()?.answered ?? 0) > 50)
  return {
    mark: (name: string) => load.mark(name),
    /** A client was answered by this process since the last mark. */
    answeredBy: (pid: number) =>
      until(`a client is answered by ${pid}`, () =>
        Object.keys(load.snapshot()?.phase.generations ?? {}).some(id => id.endsWith(`/${pid}`)),
      ),
    /** Ends it; no request may have been lost. */
    async stop(): Promise<LoadReport> {
      const report = await load.stop()
      const losses = LOSSES.filter(kind => report.total.counts[kind] > 0)
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
