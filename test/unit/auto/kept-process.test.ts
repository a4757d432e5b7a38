import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { KeptProcess } from '../../../src/auto/kept-process.js'
import { watchSignal } from '../../../src/kernel/index.js'
import { askedService } from '../../processes/asked-service.js'
import { until } from '../../processes/until.js'

it('a process that is replaced a second time is kept, whatever the answer is that it awaited since the first time', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  const first = kept.decided
  await until('it asks which process serves', () => questions.length === 1 || null)
  kept.stop()
  kept.markReplaced()
  await until('it asks again', () => questions.length === 2 || null)
  // This process has served in between.
  questions[0]!({ pid: process.pid })
  await first
  expect(kept.keeps).toBe(true)
  questions[1]!({ pid: process.ppid })
  await kept.decided
  expect(kept.keeps).toBe(true)
})

it('a process that serves again while it asks which process serves is not kept', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  kept.markReplaced()
  await until('it asks which process serves', () => questions.length === 1 || null)
  kept.stop()
  questions[0]!({ pid: process.ppid })
  await kept.decided
  expect(kept.keeps).toBe(false)
})

it('a main process is kept while the process that may serve does not answer', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  await kept.decided
  expect([questions.length, kept.keeps]).toEqual([1, true])
})

it('a signal that arrives while this process is replaced once more ends the process that serves then', async () => {
  const { control, questions } = await askedService()
  const children = [spawn('sleep', ['60']), spawn('sleep', ['60'])] as const
  onTestFinished(() => children.forEach(child => void child.kill('SIGKILL')))
  const [first, second] = children.map(({ pid }) => ({ pid: pid! }))
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  await until('it asks which process serves', () => questions.length === 1 || null)
  questions[0]!(first!)
  const passed = kept.passOn('SIGTERM')
  await until('it asks for the signal', () => questions.length === 2 || null)
  kept.stop()
  kept.markReplaced()
  await until('it asks again', () => questions.length === 3 || null)
  questions[1]!(first!)
  questions[2]!(second!)
  await until('it asks for the signal again', () => questions.length === 4 || null)
  questions[3]!(second!)
  await passed
  const [, signal] = await once(children[1], 'exit')
  expect([signal, children[0].exitCode, children[0].signalCode]).toEqual(['SIGTERM', null, null])
})

it('a process that serves again leaves signals to those that watched them before', async () => {
  const { control } = await askedService()
  // Without one the signal would end the tests if nothing got it.
  const handled = () => {}
  process.on('SIGTERM', handled)
  let heard = 0
  const watch = watchSignal('SIGTERM', () => heard++)
  onTestFinished(() => {
    watch.close()
    process.off('SIGTERM', handled)
  })
  const kept = new KeptProcess(control, true)
  kept.markReplaced()
  kept.stop()
  spawnSync('kill', ['-TERM', `${process.pid}`])
  await until('the signal is heard', () => heard === 1)
})
