import { expect, it } from 'vitest'
import { ForwardedUpgrades } from '../../src/daemon/service/forwarded-upgrades.js'
import { FdbError } from '../../src/errors.js'
import type { Peer } from '../../src/holder/peer.js'
import type { HandoffTimes } from '../../src/holder/times.js'
import type { WireBody } from '../../src/wire/link.js'

it('what a member says late of an upgrade that has failed is no answer to the next one', async () => {
  const told: WireBody[] = []
  const peer = { pid: 7, link: { tell: (body: WireBody) => told.push(body) } } as unknown as Peer
  const times = { ready: 1, quiesce: 1, freeze: 1, prepare: 1, commit: 1 } as HandoffTimes
  const upgrades = new ForwardedUpgrades(times)
  const ask = () =>
    upgrades.ask(peer, { argv: [], timeoutMs: 0 } as never, () => {}, new AbortController().signal)
  const first = ask()
  upgrades.failed({ code: 'ERR_FDB_DEADLINE', message: 'late', phase: 'offering', at: 0 })
  await expect(first).rejects.toMatchObject({
    code: 'ERR_FDB_DEADLINE',
    message: 'late (phase offering; the incumbent serves on)',
  })
  expect(told.flatMap(({ result }) => result ?? [])).toHaveLength(1)
  const second = ask()
  const requests = told.flatMap(({ upgradeRequest }) => upgradeRequest?.request ?? [])
  upgrades.answered(peer, { ok: false, code: 'ERR_FDB_DEADLINE', message: 'late', request: requests[0]! })
  upgrades.answered(peer, { ok: true, pid: 8, generation: 2, request: requests[1]! })
  expect(await second).toEqual({ pid: 8, generation: 2 })
  // A member of an earlier release repeats none.
  const third = ask()
  upgrades.answered(peer, { ok: false, code: 'ERR_FDB_SPAWN', message: 'no' })
  await expect(third).rejects.toBeInstanceOf(FdbError)
})
