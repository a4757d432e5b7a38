import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { openDescriptors, target } from './support.js'

const script = new URL('children/worker.mjs', import.meta.url)

/** Runs a worker that opens about 60 descriptors, and ends it; answers the one that it gave away. */
async function runWorker(end: (worker: Worker) => Promise<unknown>): Promise<number> {
  const worker = new Worker(script)
  const [{ open, given }] = (await once(worker, 'message')) as [{ open: number; given: number }]
  expect(open).toBeGreaterThan(55)
  await end(worker)
  return given
}

const ways: Array<[string, (worker: Worker) => Promise<unknown>]> = [
  ['is terminated', worker => worker.terminate()],
  [
    'is terminated in the middle of a loop',
    worker => {
      worker.postMessage('busy')
      return worker.terminate()
    },
  ],
  [
    'exits',
    worker => {
      const exit = once(worker, 'exit')
      worker.postMessage('exit')
      return exit
    },
  ],
]

describe('the end of an environment', () => {
  it.each(ways)('closes what a worker opened when it %s', async (_, end) => {
    // The first worker makes what the process keeps (threads, io_uring or epoll of the platform).
    closeSync(await runWorker(end))
    const before = openDescriptors()
    const owned = native.openCount()
    for (let i = 0; i < 5; i++) {
      const given = await runWorker(end)
      expect(target(given)).toContain('memfd:worker')
      closeSync(given)
    }
    expect(openDescriptors()).toBe(before)
    expect(native.openCount()).toBe(owned)
  })

  it('leaves the descriptors of other environments alone', async () => {
    const mine = native.memfd('mine')
    closeSync(await runWorker(worker => worker.terminate()))
    expect(target(mine)).toContain('memfd:mine')
    native.close(mine)
  })
})
