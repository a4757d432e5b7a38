import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { startTurn } from '../../fixtures/cli.js'

it('keeps the turn, however often further starts ask for it, until it is over', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-turn-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  const control = join(folder, 'shop.sock')
  const turn = await startTurn(control, 0, () => {})
  const others = vi.fn()
  for (let second = 0; second < 20; second++) {
    for (let i = 0; i < 20; i++) await expect(startTurn(control, 0, others)).rejects.toThrow('under way')
    vi.advanceTimersByTime(1_000)
  }
  expect(others).toHaveBeenCalledTimes(400)
  turn?.[Symbol.dispose]()
  const next = await startTurn(control, 0, () => {})
  expect(next).not.toBeNull()
  next?.[Symbol.dispose]()
})
