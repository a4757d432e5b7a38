import * as fs from 'node:fs'
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { ProgressLine } from '../../fixtures/cli.js'

vi.mock('node:fs', async original => ({ ...(await original<typeof fs>()), writeSync: vi.fn() }))

const written: string[] = []

beforeEach(() => {
  written.length = 0
  vi.useFakeTimers({ toFake: ['performance'] })
  vi.mocked(fs.writeSync).mockImplementation((_fd, text) => written.push(String(text)))
  const { isTTY, write } = process.stderr
  process.stderr.write = text => written.push(String(text)) > 0
  onTestFinished(() => {
    vi.useRealTimers()
    Object.assign(process.stderr, { isTTY, write })
  })
})

/** Shows the progress of 25 s of work. */
function work(isTTY: boolean): void {
  process.stderr.isTTY = isTTY
  using progress = new ProgressLine()
  for (let tenths = 1; tenths <= 250; tenths++) {
    vi.advanceTimersByTime(100)
    progress.bytes('reading', tenths * 2 ** 20, 250 * 2 ** 20)
  }
}

describe('the progress of long work', () => {
  it('writes a line every 10 s where stderr is no terminal', () => {
    work(false)
    expect(written).toEqual(['reading: 100.0 of 250.0 MiB\n', 'reading: 200.0 of 250.0 MiB\n'])
  })

  it('draws one line that moves on a terminal, and removes it at the end', () => {
    work(true)
    expect(written).toHaveLength(251)
    expect(written.slice(0, 2)).toEqual([
      '\r\x1b[Kreading: 1.0 of 250.0 MiB',
      '\r\x1b[Kreading: 2.0 of 250.0 MiB',
    ])
    expect(written.at(-1)).toBe('\r\x1b[K')
  })
})
