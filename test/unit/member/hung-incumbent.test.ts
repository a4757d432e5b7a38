import { expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { repeatUntilServed } from '../../../src/member/joining/hung-incumbent.js'
import { ChangeNotifier } from '../../../src/wire/pending.js'
import { untyped } from '../../fixtures/untyped.js'

it('an upgrade that is cancelled after the hung process was killed starts no further version', async () => {
  const cancel = new AbortController()
  const runtime = {
    hosting: {},
    machine: { phase: 'serving', holder: null, changes: new ChangeNotifier() },
    upgrades: { whenServing: async () => {}, servedBy: () => null },
  }
  let started = 0
  const start = async () => {
    // Each start of a cancelled upgrade fails at once.
    if (++started > 1) runtime.machine.phase = 'standby'
    cancel.abort(new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled'))
    throw cancel.signal.reason
  }
  const options = { timeoutMs: 60_000, signal: cancel.signal, report: () => {} }
  await expect(repeatUntilServed(untyped({ runtime }), options, 4711, start)).rejects.toMatchObject({
    code: 'ERR_FDB_ABORTED',
    message: expect.stringMatching(/^no version serves: process 4711 was killed/),
  })
  expect(started).toBe(1)
})
