import { afterEach, expect, it, vi } from 'vitest'
import { type OperatedService, ServiceOperations } from '../../src/daemon/service/service-operations.js'
import type { HolderPhase } from '../../src/handoff/phases.js'
import type { WireBody } from '../../src/wire/link.js'

afterEach(() => void vi.useRealTimers())

function open(phase: HolderPhase) {
  const told: WireBody[] = []
  const now = { phase, owner: 1, joiner: 2 }
  const peerOf = (id: number) => ({
    id,
    pid: 100 + id,
    link: { open: true, post: (body: WireBody) => told.push(body) },
  })
  const owner = peerOf(1)
  const service = {
    name: 'shop',
    times: { ready: 1, quiesce: 1, freeze: 1, prepare: 1, commit: 1 },
    holder: { peer: (id: number) => (id === 1 ? owner : peerOf(id)) },
    machine: () => now,
  } as unknown as OperatedService
  const operations = new ServiceOperations(service)
  const order = { argv: [], timeoutMs: 60_000, service: 'shop', killStuck: false }
  const upgrade = () => operations.upgrade(order, () => {}, new AbortController().signal)
  const asked = () => told.filter(body => body.upgradeRequest).length
  return { now, operations, upgrade, asked }
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

it('an upgrade in a probation that ends soon is asked for then', async () => {
  const { asked, now, operations, upgrade } = open('probation')
  void upgrade().catch(() => {})
  await new Promise(resolve => setImmediate(resolve))
  expect(asked()).toBe(0)
  now.phase = 'idle'
  operations.phaseChanged()
  await vi.waitFor(() => expect(asked()).toBe(1))
})
