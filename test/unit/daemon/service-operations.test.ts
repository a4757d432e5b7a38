import { afterEach, expect, it, onTestFinished, vi } from 'vitest'
import {
  ServiceOperations,
  type ServiceOperationsDeps,
} from '../../../src/daemon/service/service-operations.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import type { HolderPhase } from '../../../src/handoff/phases.js'
import type { Peer } from '../../../src/holder/peer.js'
import { socketPair } from '../../../src/kernel/index.js'
import { STOP } from '../../../src/operator/service-commands.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link, type WireBody } from '../../../src/wire/link.js'
import { untyped } from '../../fixtures/untyped.js'
import { peerWith } from '../../holder-support/processes.js'
import { StatusRequests } from '../../holder-support/status-requests.js'

afterEach(() => void vi.useRealTimers())

function open(phase: HolderPhase, connected = true) {
  const told: WireBody[] = []
  const cancelled: HolderPhase[] = []
  const killed: string[] = []
  const now = { phase, owner: 1, joiner: 2, paused: false }
  const peerOf = (id: number) => ({
    id,
    pid: 100 + id,
    link: { open: true, channel: {}, post: (body: WireBody) => told.push(body) },
  })
  const owner = peerOf(1)
  const service = {
    service: { name: 'shop', events: { note() {} }, paused: () => now.paused, changed() {} },
    times: { silence: 1_000, ready: 1, quiesce: 1, freeze: 1, prepare: 1, commit: 1 },
    holder: {
      peer: (id: number) => (connected ? (id === 1 ? owner : peerOf(id)) : undefined),
      state: now,
      noteOrder() {},
      cancel: () => cancelled.push(now.phase),
      killStuck: async () => void killed.push('stuck'),
      killSilentOwner: async () => void killed.push('silent'),
    },
    missing: { kill: async () => void killed.push('missing') },
  } as unknown as ServiceOperationsDeps
  const operations = new ServiceOperations(service)
  const order = { argv: [], timeoutMs: 60_000, service: 'shop', killStuck: false, without: [] }
  const upgrade = (killStuck = false) =>
    operations.upgrade({ ...order, killStuck }, () => {}, new AbortController().signal)
  const asked = () => told.filter(body => body.upgradeRequest).length
  const stop = () => {
    const stopping = { name: STOP, body: Buffer.from(''), service: 'shop' }
    const context = { signal: new AbortController().signal }
    return operations.order(stopping, context)
  }
  const lose = () => {
    owner.link.open = false
  }
  return { now, operations, upgrade, asked, stop, cancelled, killed, lose }
}

it.each([
  ['probation', /process 101 is in probation.*rollback/],
  ['offering', /process 102 is taking over/],
  ['preparing', /process 102 is taking over/],
] as const)('an upgrade in %s is refused as busy before a successor is started', async (phase, message) => {
  vi.useFakeTimers()
  const { asked, upgrade } = open(phase)
  const refused = upgrade().catch(error => error)
  await vi.advanceTimersByTimeAsync(5_000)
  expect(asked()).toBe(0)
  expect(await refused).toMatchObject({
    code: 'ERR_FDB_BUSY',
    retryable: true,
    message: expect.stringMatching(message),
  })
})

it.each([
  ['probation', /^shop: the version that serves is in probation/],
  ['offering', /^shop: the next version is taking over \(phase offering\)/],
] as const)(
  'a process that has not reconnected to the daemon in %s is named without a pid',
  async (phase, message) => {
    vi.useFakeTimers()
    const refused = open(phase, false)
      .upgrade()
      .catch(error => error)
    await vi.advanceTimersByTimeAsync(5_000)
    expect(await refused).toMatchObject({ code: 'ERR_FDB_BUSY', message: expect.stringMatching(message) })
  },
)

it.each([
  ['preparing', ['preparing']],
  ['idle', []],
  ['probation', []],
] as const)(
  'an order to end the service in %s refuses a next version that would serve on',
  async (phase, refused) => {
    const { cancelled, stop } = open(phase)
    void stop().catch(() => {})
    expect(cancelled).toEqual(refused)
  },
)

it('an order to end the service that its member does not get refuses no next version', async () => {
  const { cancelled, lose, stop } = open('offering')
  lose()
  await expect(stop()).rejects.toMatchObject({ code: 'ERR_FDB_BUSY' })
  expect(cancelled).toEqual([])
})

it('an upgrade with --kill-stuck kills no member if the next daemon, to which all reconnect, takes over meanwhile', async () => {
  vi.useFakeTimers()
  const { killed, now, upgrade } = open('rebuilding')
  const refused = upgrade(true).catch(error => error)
  now.paused = true
  await vi.advanceTimersByTimeAsync(5_000)
  expect(await refused).toMatchObject({ code: 'ERR_FDB_BUSY', retryable: true })
  expect(killed).toEqual([])
})

it('a stopped member that has not reconnected to the next daemon gets its last order when it has', async () => {
  const identity = { pid: 101, startTime: '1' }
  const commands: string[] = []
  const post = ({ command }: WireBody) => void commands.push(command?.name ?? '')
  const owner = { id: 1, pid: 101, identity, link: { open: true, post } }
  const peers = new Map<number, typeof owner>()
  const state = { phase: 'rebuilding', owner: 1 }
  const deps = {
    holder: { state, peer: (id: number) => peers.get(id) },
    older: { draining: [] },
    service: { stopped: identity, changed() {} },
  }
  const operations = new ServiceOperations(untyped(deps))
  const turn = () => new Promise(resolve => setImmediate(resolve))
  operations.changed()
  await turn()
  expect([operations.stopped, commands]).toEqual([identity, []])
  peers.set(1, owner)
  state.phase = 'idle'
  operations.changed()
  await turn()
  expect(commands).toEqual([STOP])
  operations.forget(untyped(owner))
  await turn()
  expect(operations.stopped).toBe(undefined)
})

it('an upgrade in a probation that ends soon is asked for then', async () => {
  const { asked, now, operations, upgrade } = open('probation')
  void upgrade().catch(() => {})
  await new Promise(resolve => setImmediate(resolve))
  expect(asked()).toBe(0)
  now.phase = 'idle'
  operations.changed()
  await expect.poll(asked).toBe(1)
})

it('a status does not wait long for a member of another user, whose previous answer stands in for a late one', async () => {
  vi.useFakeTimers()
  const quotas = new UserQuotas(1_024)
  const peerOf = (uid: number): Peer => {
    const [a, b] = socketPair('member')
    const link = new Link(new Channel(a, { foreignUser: quotas.foreignUserOf(uid) }))
    onTestFinished(() => {
      link.close()
      b.close()
    })
    return peerWith({ link })
  }
  const requests = new StatusRequests()
  const answerOf = async (peer: Peer, ms: number) => {
    const answer = requests.ask(peer).then(json => ({ json }))
    await vi.advanceTimersByTimeAsync(ms)
    return await Promise.race([answer, Promise.resolve(null)])
  }
  const [other, own] = [peerOf(12_001), peerOf(0)]
  expect(await answerOf(other, 100)).toEqual({ json: '' })
  expect(await answerOf(own, 100)).toBe(null)
  requests.handleAnswer(other, '{"a":1}')
  expect(await answerOf(other, 100)).toEqual({ json: '{"a":1}' })
  const long = JSON.stringify('x'.repeat(100_000))
  requests.handleAnswer(other, long)
  expect(await answerOf(other, 100)).toEqual({ json: '' })
  const waits = requests.ask(own)
  requests.handleAnswer(own, long)
  expect(await waits).toBe(long)
})
