import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { forwardedUpgrades, linked, peerWith } from '../../holder-support/processes.js'
import { until } from '../../processes/until.js'
import { OTHER } from '../../processes/upgrade-attempts.js'

it('a late message of a member about a failed upgrade answers no later one', async () => {
  const { link, heard } = linked()
  const peer = peerWith({ pid: 7, link })
  const upgrades = forwardedUpgrades()
  const order = { argv: [], timeoutMs: 0, service: 'shop', killStuck: false, without: [] }
  const ask = () => upgrades.ask(peer, order, () => {}, new AbortController().signal)
  const first = ask()
  upgrades.failed({ code: 'ERR_FDB_DEADLINE', message: 'late', phase: 'offering', at: 0 }, null)
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

it('a failed handoff ends an upgrade, unless another command has started its process', async () => {
  const { link, heard } = linked()
  const peer = Object.assign(peerWith({ pid: 7, link }), { lineage: { ...OTHER, pid: 7 } })
  const upgrades = forwardedUpgrades()
  const order = { argv: [], timeoutMs: 0, service: 'shop', killStuck: false, without: [] }
  const ask = () => upgrades.ask(peer, order, () => {}, new AbortController().signal).catch(error => error)
  const failure = { code: 'ERR_FDB_CHECK', message: 'no', phase: 'offering', at: 0 } as const
  const started = () => upgrades.handleProgress(peer, { phase: 'started', at: 0, pid: 42 })

  const first = ask()
  started()
  upgrades.failed(failure, OTHER)
  upgrades.handleResult(peer, { ok: true, pid: 42, generation: 2, request: 1 })
  expect(await first).toEqual({ pid: 42, generation: 2 })

  // The command has failed, too.
  const second = ask()
  started()
  upgrades.failed(failure, OTHER)
  upgrades.handleResult(peer, { ok: false, code: 'ERR_FDB_SUCCESSOR_EXITED', message: 'gone', request: 2 })
  expect(await second).toMatchObject({
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    message: 'gone; a process that another command or a service manager has started failed meanwhile: no',
  })
  expect(heard.flatMap(({ result }) => result ?? [])).toEqual([])

  for (const own of [{ session: 42 }, { ancestors: new Set([42]) }, { lastWords: '/run/shop.sock.1' }]) {
    const third = ask()
    started()
    upgrades.failed(failure, { ...OTHER, ...own })
    expect(await third).toMatchObject({ code: 'ERR_FDB_CHECK' })
  }
  // In the member's PID namespace that process may have the number.
  peer.lineage = { ...peer.lineage, sharesPids: false }
  const fourth = ask()
  started()
  upgrades.failed(failure, { ...OTHER, session: 42 })
  upgrades.handleResult(peer, { ok: true, pid: 42, generation: 2, request: 6 })
  expect(await fourth).toEqual({ pid: 42, generation: 2 })
})

it('a successor whose connection ends leaves its member time to say why', async () => {
  const { link, heard } = linked()
  const peer = peerWith({ pid: 7, link })
  const upgrades = forwardedUpgrades()
  const order = { argv: [], timeoutMs: 0, service: 'shop', killStuck: false, without: [] }
  const ask = () => upgrades.ask(peer, order, () => {}, new AbortController().signal).catch(error => error)
  const failure = { code: 'ERR_FDB_SUCCESSOR_LOST', message: 'lost', phase: 'offering', at: 0 } as const
  const first = ask()
  upgrades.failed(failure, null)
  // The next handoff fails before the member has answered.
  upgrades.failed({ ...failure, code: 'ERR_FDB_CHECK' }, null)
  await until('the member has heard it', () => heard.some(({ result }) => result?.code === failure.code))
  upgrades.handleResult(peer, { ok: false, code: failure.code, message: 'lost: no such file', request: 1 })
  expect(await first).toMatchObject({ code: failure.code, message: 'lost: no such file' })
})

describe('a member that has connected again and has told of no start', () => {
  /** An upgrade whose order went over a connection that has broken since. */
  function lost() {
    const peer = peerWith({ pid: 7, link: linked().link })
    const upgrades = forwardedUpgrades()
    const order = { argv: [], timeoutMs: 0, service: 'shop', killStuck: false, without: [] }
    const upgraded = upgrades
      .ask(peer, order, () => {}, new AbortController().signal)
      .catch((error: unknown) => error)
    const { link, heard } = linked()
    Object.assign(peer, { link, returning: true })
    upgrades.changed()
    peer.returning = false
    upgrades.changed()
    upgrades.changed()
    return { heard, peer, upgraded, upgrades }
  }

  it('gives the upgrade up, so that the operator can try again', async () => {
    const { heard, upgraded } = lost()
    expect(await upgraded).toMatchObject({
      code: 'ERR_FDB_CHANNEL_CLOSED',
      message: expect.stringContaining('try again'),
    })
    await until('the member has heard it', () => heard.some(({ result }) => result?.ok === false))
    expect(heard.filter(({ result }) => result)).toHaveLength(1)
  })

  it('answers all the same, if it cannot give it up any more', async () => {
    const { peer, upgraded, upgrades } = lost()
    upgrades.handleResult(peer, { ok: true, pid: 8, generation: 2, request: 1 })
    expect(await upgraded).toEqual({ pid: 8, generation: 2 })
  })
})
