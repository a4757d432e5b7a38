import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { SuccessorWatch } from '../../../src/holder/stuck.js'
import { identify } from '../../../src/os/process-identity.js'
import { peerWith } from '../../holder-support/processes.js'
import { until } from '../../processes/until.js'

/** A watch of a process that has said nothing for a minute. */
function watched(pid: number, beats = true) {
  const counts = { looks: 0, stuck: 0 }
  const peer = peerWith({ pid, identity: identify(pid) })
  peer.sendsHeartbeats = beats
  peer.heartbeatAt = performance.now() - 60_000
  const watch = new SuccessorWatch({
    joiner: () => {
      counts.looks++
      return peer
    },
    limitMs: () => 50,
    stuck: () => void counts.stuck++,
  })
  onTestFinished(() => watch.end())
  return { counts, peer, watch }
}

/** Resolves when the process runs its loop: before, it may wait for its files. */
async function busy() {
  const script = "require('node:fs').writeSync(1, '.'); for (;;);"
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}

it('a successor that runs and says nothing is slow; one that is stopped is stuck', async () => {
  const child = await busy()
  const { counts, watch } = watched(child.pid!)
  watch.enter('preparing')
  await until('it was looked at', () => counts.looks >= 5)
  expect(counts.stuck).toBe(0)
  child.kill('SIGSTOP')
  await until('it is stuck', () => counts.stuck > 0)
  watch.enter('probation')
  const { looks } = counts
  await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
  expect(counts.looks).toBe(looks)
})

it('a successor of a release that beats only when it serves is not silent, and one that beats is not stuck', async () => {
  const child = await busy()
  child.kill('SIGSTOP')
  const [older, beating] = [watched(child.pid!, false), watched(child.pid!)]
  const timer = setInterval(() => {
    beating.peer.heartbeatAt = performance.now()
  }, 5)
  onTestFinished(() => clearInterval(timer))
  for (const { watch } of [older, beating]) watch.enter('committing')
  await until('both were looked at', () => older.counts.looks >= 5 && beating.counts.looks >= 5)
  expect([older.counts.stuck, beating.counts.stuck]).toEqual([0, 0])
})
