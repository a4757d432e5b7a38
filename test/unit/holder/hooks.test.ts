import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { EventLog } from '../../fixtures/events.js'
import { Hooks } from '../../fixtures/holder.js'
import { until } from '../../processes/until.js'

/** A service whose hooks are noted. `note`: an event happens. */
function service() {
  const begun: string[] = []
  const events = new EventLog(SILENT, { service: 'shop', generation: 1 })
  const hooks = new Hooks(events, {
    logger: SILENT,
    settings: () => ({ success: 'success', failure: 'failure', rollback: 'rollback', timeout: 1_000 }),
    startCommand: command => {
      begun.push(command)
      return { ended: Promise.resolve(null), kill: () => {} }
    },
  })
  onTestFinished(() => hooks.close())
  const note = (...noted: Parameters<EventLog['note']>[]) => {
    for (const each of noted) events.note(...each)
  }
  return { begun, hooks, note }
}

it('each upgrade that fails has one hook, also the next one, and one that fails before its handoff', async () => {
  const { begun, hooks, note } = service()
  note(['upgrade.ordered'], ['handoff.failed', { phase: 'offering' }], ['upgrade.failed'])
  note(['upgrade.ordered'], ['upgrade.failed'])
  note(['upgrade.ordered'], ['rollback.started'], ['rollback.serving'], ['upgrade.failed'])
  note(['upgrade.ordered'], ['upgrade.failed'])
  await until('all have ended', () => !hooks.isRunning)
  expect(begun).toEqual(['failure', 'failure', 'rollback', 'failure'])
})
