import { afterEach, expect, it, vi } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { askedService, operatedService } from '../../processes/asked-service.js'
import { AWAITED, awaiting } from '../../processes/awaited-listener.js'
import { until } from '../../processes/until.js'

afterEach(() => vi.useRealTimers())

it('a listener is not awaited any more when the previous version has closed it, however late', async () => {
  const { control, questions } = await askedService()
  const awaited = awaiting(control)
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  const complete = awaited.complete(new AbortController().signal)
  for (const listeners of [[AWAITED], [AWAITED], []]) {
    // Until the last answer has come, no further question is asked.
    await until('it asks the previous version', () => {
      vi.advanceTimersByTime(500)
      return questions.length > 0
    })
    questions.shift()!({ pid: process.ppid, listeners })
  }
  await complete
  expect(awaited.missing).toEqual([])
})

it('a listener that the previous version has closed is not awaited, also if it could not be asked before', async () => {
  const answers = [
    () => Promise.reject(new FdbError('ERR_FDB_BUSY', 'asked too often')),
    // Another process of the service has answered.
    async () => ({ pid: process.pid, listeners: [] }),
    () => Promise.reject(new FdbError('ERR_FDB_BUSY', 'asked too often')),
    async () => ({ pid: process.ppid, listeners: [] }),
  ]
  let asked = 0
  const control = await operatedService({
    status: () => answers[Math.min(asked++, answers.length - 1)]!(),
    upgrade: () => expect.unreachable(),
    command: () => expect.unreachable(),
  })
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  const awaited = awaiting(control)
  let isComplete = false
  const complete = awaited.complete(new AbortController().signal).then(() => (isComplete = true))
  await until('no listener is awaited', () => {
    vi.advanceTimersByTime(500)
    return isComplete
  })
  await complete
  expect(asked).toBeGreaterThanOrEqual(answers.length)
})
