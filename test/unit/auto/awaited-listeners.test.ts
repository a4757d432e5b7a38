import { afterEach, expect, it, vi } from 'vitest'
import { askedService } from '../../processes/asked-service.js'
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
