import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { proxySignals } from '../../fixtures/cli.js'
import { untyped } from '../../fixtures/untyped.js'

const DRAIN_MS = 4_000

/** Sends signals while a proxy starts, and returns what it is told when it serves. */
async function toldAfter(...early: readonly NodeJS.Signals[]): Promise<unknown[]> {
  const told: unknown[] = []
  const proxy = {
    config: { drain: { timeout: DRAIN_MS } },
    close: async (options: unknown) => void told.push(options),
    member: { staysForOthers: false, reload: async () => void told.push('reload') },
  }
  const signals = proxySignals(SILENT, () => {})
  onTestFinished(() => signals.close())
  for (const signal of early) process.emit(signal, signal)
  signals.attach(untyped<Parameters<typeof signals.attach>[0]>(proxy))
  await new Promise(setImmediate)
  return told
}

it('a proxy that was told to end while it started gets this order once, and no reload', async () => {
  const ever = 2 ** 31 - 1
  const orders = {
    SIGTERM: { timeout: DRAIN_MS, handBack: false },
    SIGQUIT: { timeout: ever, handBack: true },
  }
  for (const [signal, order] of Object.entries(orders)) {
    expect(await toldAfter(signal as NodeJS.Signals)).toEqual([order])
    expect(await toldAfter('SIGHUP', signal as NodeJS.Signals, 'SIGHUP')).toEqual([order])
  }
  expect(await toldAfter('SIGHUP', 'SIGHUP')).toEqual(['reload'])
})
