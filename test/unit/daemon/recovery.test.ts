import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished, vi } from 'vitest'
import { Recovery } from '../../../src/daemon/service/recovery.js'
import { native } from '../../../src/kernel/native.js'
import { identify, type ProcessIdentity } from '../../../src/os/process-identity.js'
import { pause, until } from '../../processes/until.js'

function started(): ChildProcess & { pid: number } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child as ChildProcess & { pid: number }
}

const pidsOf = (members: readonly ProcessIdentity[]) => members.map(({ pid }) => pid)

it('a restarted daemon waits for members until each is back or dead', async () => {
  const [one, other] = [started(), started()]
  const members = [identify(one.pid), identify(other.pid), identify(process.pid, { instance: 'own' })]
  let changes = 0
  const call = new Recovery(members, () => changes++)
  onTestFinished(() => call.close())
  expect(pidsOf(call.missing([]))).toEqual([one.pid, other.pid, process.pid])
  expect(pidsOf(call.missing([members[2]]))).toEqual([one.pid, other.pid])
  one.kill('SIGKILL')
  await until('its death is known', () => changes === 1)
  expect(pidsOf(call.missing([]))).toEqual([other.pid, process.pid])
  call.stopAwaiting(members[0]!)
  expect(changes).toBe(1)
  call.stopAwaiting(members[1]!)
  expect([changes, pidsOf(call.missing([]))]).toEqual([2, [process.pid]])
})

it('a restarted daemon that waits no more watches nobody', async () => {
  const child = started()
  const before = native.openCount()
  let changes = 0
  const call = new Recovery([identify(child.pid)], () => changes++)
  expect(pidsOf(call.missing([]))).toEqual([child.pid])
  call.close()
  expect([call.members, native.openCount()]).toEqual([[], before])
  child.kill('SIGKILL')
  await once(child, 'exit')
  await pause(20)
  expect(changes).toBe(0)
})

it('a restarted daemon that was stopped for these 5 s first reads that the member is back', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const unseen = identify(0, { pid: 7, instance: 'elsewhere' })
  const call = new Recovery([unseen], () => {})
  onTestFinished(() => call.close())
  vi.advanceTimersByTime(5_000)
  expect(call.members).toEqual([unseen])
  await new Promise(resolve => setImmediate(resolve))
  expect(call.members).toEqual([])
})

it('a restarted daemon waits 5 s for a member whose death cannot be seen, and on for one that can be seen', () => {
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  const seen = started()
  const unseen = identify(0, { pid: 7, instance: 'elsewhere' })
  let changes = 0
  const call = new Recovery([identify(seen.pid), unseen], () => changes++)
  onTestFinished(() => call.close())
  vi.advanceTimersByTime(4_999)
  expect([changes, pidsOf(call.missing([]))]).toEqual([0, [seen.pid, 7]])
  vi.advanceTimersByTime(1)
  vi.advanceTimersToNextTimer()
  expect([changes, pidsOf(call.missing([]))]).toEqual([1, [seen.pid]])
})
