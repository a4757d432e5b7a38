import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { startedAs } from '../../../src/os/command-line.js'
import type { ChildStarter } from '../../../src/probing/shell.js'
import { isStopped, unitStops } from '../../../src/run/shared-listeners.js'

/** As systemd starts a unit's process, for the length of a test. */
function asUnit(): void {
  const env = startedAs.env as NodeJS.ProcessEnv
  const before = env.NOTIFY_SOCKET
  env.NOTIFY_SOCKET = '/run/systemd/notify'
  onTestFinished(() => {
    if (before === undefined) delete env.NOTIFY_SOCKET
    else env.NOTIFY_SOCKET = before
  })
}

/** Commands that end when they are killed, and not before. */
class Silent implements ChildStarter {
  readonly killed: number[] = []
  #ended: (() => void) | undefined

  start(_start: unknown, ended: (code: number) => void): number {
    this.#ended = () => ended(137)
    return 7
  }

  kill(pid: number): void {
    this.killed.push(pid)
    this.#ended?.()
  }
}

describe('the question for the job of a unit', () => {
  it('ends after 10 s where systemctl says nothing, and systemctl with it', async () => {
    asUnit()
    vi.useFakeTimers({ toFake: ['setTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const systemctl = new Silent()
    const answer = unitStops(systemctl, new AbortController().signal)
    // An answer may have come while this process was stopped.
    vi.advanceTimersByTime(10_000)
    expect(systemctl.killed).toEqual([])
    expect(await answer).toBe(false)
    expect(systemctl.killed).toEqual([7])
  })

  it('ends when it is given up, and systemctl with it', async () => {
    asUnit()
    const systemctl = new Silent()
    const givenUp = new AbortController()
    const answer = unitStops(systemctl, givenUp.signal)
    givenUp.abort()
    expect(await answer).toBe(false)
    expect(systemctl.killed).toEqual([7])
  })
})

describe('the job of a unit', () => {
  it.each([
    ['stops it', 'shop.service\n  7 shop.service stop running\n', true],
    ['stops it among others', 'shop.service\n7 a.service start waiting\n8 shop.service stop waiting\n', true],
    ['restarts it', 'shop.service\n7 shop.service restart running\n', false],
    ['stops another', 'shop.service\n7 shop.service.d stop running\n8 a-shop.service stop running\n', false],
    ['is none', 'shop.service\nNo jobs running.\n', false],
    ['is not told', '', false],
  ])('%s', (_what, text, stops) => {
    expect(isStopped(text)).toBe(stops)
  })
})
