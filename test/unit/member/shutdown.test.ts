import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import {
  finishing,
  isDevelopment,
  RETIRED_MS,
  Shutdown,
  watchRetired,
} from '../../../src/member/lifecycle/shutdown.js'

const failed = new FdbError('ERR_FDB_DEADLINE', 'too late')

/** How it ends, and what the application is told. */
async function ended(shutdown: Shutdown): Promise<string[]> {
  const told: string[] = []
  shutdown.end(failed)
  shutdown.settle(why => told.push(why))
  return [await shutdown.retired, ...told]
}

describe('the departure of a process', () => {
  it.each(['EMFILE', 'ENOMEM', 'ENOSPC'])('names the shortage that keeps it from serving (%s)', code => {
    const { cannotServe } = new Shutdown()
    cannotServe.record(Object.assign(new Error('epoll_ctl'), { code }))
    expect(cannotServe.report).toEqual({
      code: 'ERR_FDB_NO_DESCRIPTORS',
      message: expect.stringMatching(new RegExp(`^this process cannot serve \\(${code}\\).*try again$`)),
    })
  })

  it('counts as retired until it serves again, also while it is closed', () => {
    const shutdown = new Shutdown()
    shutdown.retire()
    expect([shutdown.isRetired, shutdown.closing]).toEqual([true, false])
    shutdown.serve()
    expect([shutdown.isRetired, shutdown.closing]).toEqual([false, false])
    shutdown.retire()
    shutdown.close()
    expect([shutdown.isRetired, shutdown.closing]).toEqual([true, true])
    shutdown.serve()
    expect([shutdown.isRetired, shutdown.closing]).toEqual([false, true])
  })

  it('becomes retired by a successor that serves after its close', () => {
    const shutdown = new Shutdown()
    shutdown.close()
    shutdown.retire()
    expect([shutdown.isRetired, shutdown.closing, shutdown.over]).toEqual([true, true, false])
    shutdown.end(failed)
    expect([shutdown.isRetired, shutdown.closing, shutdown.over]).toEqual([false, false, true])
  })

  it('says why: lost, unless another serves by the word of whoever decides', async () => {
    const words = [
      [],
      ['retire'],
      ['retire', 'resume'],
      ['released', 'resume'],
      ['released', 'retire', 'resume'],
    ] as const
    const whys = words.map(async said => {
      const shutdown = new Shutdown()
      for (const word of said) shutdown.handleVerdict(word)
      shutdown.leave(false)
      return await ended(shutdown)
    })
    const lost = ['lost', 'lost']
    const replaced = ['replaced', 'replaced']
    expect(await Promise.all(whys)).toEqual([lost, replaced, lost, replaced, replaced])
    const decided = new Shutdown()
    decided.leave(true)
    expect(await ended(decided)).toEqual(replaced)
  })

  it('says that the application wanted it', async () => {
    const shutdown = new Shutdown()
    shutdown.close()
    shutdown.closedBy('closed')
    expect(await ended(shutdown)).toEqual(['closed', 'closed'])
  })

  it('keeps the first reason, until it is fenced or serves', () => {
    const shutdown = new Shutdown()
    const fenced = new FdbError('ERR_FDB_FENCED', 'another writes')
    shutdown.recordReason(failed)
    shutdown.recordReason(fenced)
    expect(shutdown.reason).toBe(failed)
    shutdown.replaceReason(fenced)
    expect(shutdown.reason).toBe(fenced)
    shutdown.serve()
    expect(shutdown.reason).toBeNull()
  })
})

describe('a retired process that does not end', () => {
  it('logs what keeps it, with the verb in its number', () => {
    vi.useFakeTimers()
    onTestFinished(() => void vi.useRealTimers())
    const listed = vi.spyOn(process, 'getActiveResourcesInfo')
    const messages: string[] = []
    const debug = () => {}
    const warn = (_facts: object, message: string) => void messages.push(message)
    const logger = { debug, info: debug, warn, error: debug }
    for (const kept of [['Timeout'], ['Timeout', 'Timeout', 'Immediate'], []]) {
      listed.mockReturnValue(kept)
      watchRetired({}, { logger, exitWhenRetired: null }, { left: false, report: () => {} })
      vi.advanceTimersByTime(RETIRED_MS)
    }
    expect(messages.map(message => /does not end: (.*?);/.exec(message)?.[1])).toEqual([
      '1 Timeout keeps it',
      '2 Timeout, 1 Immediate keep it',
      'something that Node does not name keeps it',
    ])
    listed.mockRestore()
  })
})

it('logs nothing of a retired process that finishes work of its own, until that is done', async () => {
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  const warn = vi.fn()
  const logger = { debug() {}, info() {}, warn, error() {} }
  let finish = () => {}
  const work = finishing(new Promise<void>(resolve => (finish = resolve)))
  watchRetired({}, { logger, exitWhenRetired: null }, { left: false, report: () => {} })
  await vi.advanceTimersByTimeAsync(3 * RETIRED_MS)
  expect(warn).not.toHaveBeenCalled()
  finish()
  await work
  await vi.advanceTimersByTimeAsync(RETIRED_MS - 1)
  expect(warn).not.toHaveBeenCalled()
  await vi.advanceTimersByTimeAsync(1)
  expect(warn).toHaveBeenCalledTimes(1)
})

it.each([
  ['development', false, true],
  ['production', true, false],
  ['test', true, false],
  ['staging', true, false],
  [undefined, true, true],
  [undefined, false, false],
])(
  'searches the heap of a replaced process for timers in development only: %s, terminal %s',
  (nodeEnv, terminal, expected) => {
    expect(isDevelopment(nodeEnv, terminal)).toBe(expected)
  },
)
