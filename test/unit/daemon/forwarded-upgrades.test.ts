import { expect, it } from 'vitest'
import { ForwardedUpgrades } from '../../../src/daemon/service/service-operations.js'
import { FdbError } from '../../../src/errors.js'
import { HANDOFF_TIMES } from '../../../src/holder/times.js'
import { linked, peerWith } from '../../holder-support/processes.js'
import { until } from '../../processes/until.js'

it('a late message of a member about a failed upgrade answers no later one', async () => {
  const { link, heard } = linked()
  const peer = peerWith({ pid: 7, link })
  const upgrades = new ForwardedUpgrades(HANDOFF_TIMES)
  const order = { argv: [], timeoutMs: 0, service: 'shop', killStuck: false, without: [] }
  const ask = () => upgrades.ask(peer, order, () => {}, new AbortController().signal)
  const first = ask()
  upgrades.failed({ code: 'ERR_FDB_DEADLINE', message: 'late', phase: 'offering', at: 0 })
  await expect(first).rejects.toMatchObject({
    code: 'ERR_FDB_DEADLINE',
    message: 'late (phase offering; the incumbent keeps serving)',
  })
  const second = ask()
  const asked = () => heard.flatMap(({ upgradeRequest }) => upgradeRequest?.request ?? [])
  await until('both were asked', () => asked().length === 2)
  const requests = asked()
  expect(heard.flatMap(({ result }) => result ?? [])).toHaveLength(1)
  upgrades.handleResult(peer, { ok: false, code: 'ERR_FDB_DEADLINE', message: 'late', request: requests[0]! })
  upgrades.handleResult(peer, { ok: true, pid: 8, generation: 2, request: requests[1]! })
  expect(await second).toEqual({ pid: 8, generation: 2 })
  // A member of an earlier release repeats none.
  const third = ask()
  upgrades.handleResult(peer, { ok: false, code: 'ERR_FDB_SPAWN', message: 'no' })
  await expect(third).rejects.toBeInstanceOf(FdbError)
})
