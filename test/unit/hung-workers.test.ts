import { describe, expect, it } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { HungWorkers } from '../../src/workers/hung.js'
import type { WorkerSlot } from '../../src/workers/worker-slot.js'

/** A worker that beat when this was called, and never again. */
function silentSlot(index: number) {
  const replaced: number[] = []
  const slot = {
    ...{ index, hung: false, wanted: true, starting: false, standing: { phase: 'idle' }, replaced },
    owner: { pid: 1, beats: true, beatAt: performance.now(), over: false, link: { open: true } },
    replaceHung: async (silentMs: number) => void replaced.push(silentMs),
  }
  return slot
}

describe('workers that hang', () => {
  // 2 s of silence.
  it('are noticed together, and the first, which decides the changes of all, is replaced at once', async () => {
    const slots = [silentSlot(0), silentSlot(1)]
    const [first, second] = slots
    let hung: HungWorkers | undefined
    const noticed = await new Promise<readonly (readonly number[])[]>(resolve => {
      hung = new HungWorkers({
        logger: SILENT,
        limitMs: 10_000,
        slots: () => slots as unknown as WorkerSlot[],
        changed: () => resolve(slots.map(({ replaced }) => [...replaced])),
      })
      hung.start()
    })
    hung!.stop()
    expect([first!.hung, second!.hung]).toEqual([true, true])
    expect(noticed).toEqual([[expect.any(Number)], []])
    expect(noticed[0]![0]).toBeGreaterThan(2_000)
  })
})
