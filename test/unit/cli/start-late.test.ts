import { expect, it } from 'vitest'
import { lateStart, PID } from '../../processes/late-start.js'

const OTHER = { pid: 1_000_002, generation: 1, role: 'serving' }

it('does not end a program that serves by the time the reason is found why it did not', async () => {
  const { outcome, isEnded } = await lateStart([OTHER, { pid: PID, generation: 2, role: 'serving' }])
  expect([outcome, isEnded]).toEqual([2, false])
})

it('ends a program that does not serve', async () => {
  const { outcome, isEnded } = await lateStart([OTHER, OTHER])
  expect(outcome).toMatchObject({ code: 'ERR_FDB_DEADLINE', message: expect.stringContaining('was ended') })
  expect(isEnded).toBe(true)
})
