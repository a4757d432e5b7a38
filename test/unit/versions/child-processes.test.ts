import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { expect, it, onTestFinished } from 'vitest'
import { holdSignals, releaseSignals } from '../../../src/kernel/index.js'
import { ChildProcesses } from '../../fixtures/versions.js'
import { until } from '../../processes/until.js'

function blockUntilEnded(pid: number): void {
  const rest = new Int32Array(new SharedArrayBuffer(4))
  while (!/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) Atomics.wait(rest, 0, 0, 1)
}

it('the end of each child is heard, though the kernel has merged their signals', async () => {
  const children = new ChildProcesses()
  onTestFinished(() => children.close())
  const ended = new Map<number, number>()
  const codes = [3, 4, 5]
  holdSignals(1 << (constants.signals.SIGCHLD - 1))
  const pids = codes.map(code => {
    const argv = ['sh', '-c', `exit ${code}`]
    const start = { file: '/bin/sh', cwd: '', argv, env: {}, fds: [], deathSignal: 9 }
    const pid: number = children.start(start, given => void ended.set(pid, given))
    return pid
  })
  for (const pid of pids) blockUntilEnded(pid)
  releaseSignals()
  await until('all have ended', () => ended.size === codes.length)
  expect(pids.map(pid => ended.get(pid))).toEqual(codes)
})
