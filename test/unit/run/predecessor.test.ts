import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { parseListenerSpec } from '../../../src/listeners/index.js'
import { Predecessor } from '../../../src/run/predecessor.js'
import { versionSettings } from '../../processes/version-settings.js'

const LISTENS = `const server = require('node:net').createServer()
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))`

/** A process whose listeners were taken over, with fake timers. */
async function takenOver(): Promise<Predecessor> {
  const child = spawn(process.execPath, ['-e', LISTENS], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [port] = await once(child.stdout, 'data')
  const listener = { name: 'web', spec: parseListenerSpec(`tcp://127.0.0.1:${Number(port)}`) }
  const predecessor = Predecessor.of({ pid: child.pid!, signal: undefined }, [listener], SILENT)
  onTestFinished(() => predecessor[Symbol.dispose]())
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  return predecessor
}

/** A time limit first lets the event loop read. */
const read = () => new Promise(resolve => setImmediate(resolve))
const healthyFor = (ms: number) => versionSettings({ healthyFor: ms, stopTimeout: 60_000 })

it('a process that was taken over serves until the version that serves has done so for its time', async () => {
  const predecessor = await takenOver()
  predecessor.retire(healthyFor(1_000))
  vi.advanceTimersByTime(500)
  // The next version replaces the first one before that time is over.
  predecessor.retire(healthyFor(1_000))
  vi.advanceTimersByTime(900)
  await read()
  expect(predecessor.phase).toBe('serving')
  vi.advanceTimersByTime(101)
  await read()
  expect(predecessor.phase).not.toBe('serving')
})
