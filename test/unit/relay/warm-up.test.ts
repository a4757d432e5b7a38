import { createServer } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { hasPolledSockets, socketPair } from '../../../src/kernel/index.js'
import type { Destination, Forward } from '../../../src/relay/index.js'
import { StandIn, type WarmUpRelay, warmUp } from '../../../src/relay/warm-up.js'
import { openDescriptors } from '../../fixtures/open-descriptors.js'
import { until } from '../../processes/until.js'

function relayOf(decision: Forward | { kind: 'refuse'; status: number; reason: string }) {
  const reports: { status: number; reason: string | undefined }[] = []
  const make = (): WarmUpRelay => ({
    route: () => decision,
    onExchange: ({ status, reason }) => reports.push({ status, reason }),
  })
  return { make, reports }
}

async function somebody() {
  let connections = 0
  const server = createServer(() => connections++).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  onTestFinished(() => void server.close())
  const { port } = server.address() as { port: number }
  const destination: Destination = {
    key: 'somebody',
    address: { kind: 'tcp', host: '127.0.0.1', port },
    authority: `127.0.0.1:${port}`,
  }
  const sendOn: Forward = { kind: 'upstream', name: 'somebody', pick: tried => tried[0] ?? destination }
  return { sendOn, connections: () => connections }
}

describe('a warm-up', () => {
  it('relays as many requests as it is told, to nobody but itself, and leaves nothing open', async () => {
    const { sendOn, connections } = await somebody()
    const { make, reports } = relayOf(sendOn)
    // The shared descriptors stay open.
    hasPolledSockets()
    const before = openDescriptors()
    expect(await warmUp(make, { maxRequests: 300, within: 20_000, needed: () => true })).toBe(300)
    // The last ones are on their way when it ends.
    expect(
      reports.filter(({ status, reason }) => status === 200 && reason === undefined).length,
    ).toBeGreaterThanOrEqual(299)
    await until('all is closed', () => openDescriptors() === before)
    expect(connections()).toBe(0)
  })

  it('ends as soon as it is not needed any more', async () => {
    const { sendOn } = await somebody()
    let asked = 0
    const needed = () => ++asked < 20
    const answered = await warmUp(relayOf(sendOn).make, { maxRequests: 1_000_000, within: 60_000, needed })
    expect(answered).toBe(20)
  })

  it('ends when its time is over, however many were answered', async () => {
    const { sendOn } = await somebody()
    const begun = performance.now()
    await warmUp(relayOf(sendOn).make, {
      maxRequests: Number.POSITIVE_INFINITY,
      within: 50,
      needed: () => true,
    })
    expect(performance.now() - begun).toBeLessThan(10_000)
  })

  it('pauses, so that the event loop and the processor are free for real clients', async () => {
    const { sendOn } = await somebody()
    const begun = performance.now()
    const idle = performance.nodeTiming.idleTime
    await warmUp(relayOf(sendOn).make, {
      maxRequests: Number.POSITIVE_INFINITY,
      within: 300,
      needed: () => true,
    })
    const elapsed = performance.now() - begun
    expect((performance.nodeTiming.idleTime - idle) / elapsed).toBeGreaterThan(0.1)
  })

  it('comes to its end where its connections are closed instead', async () => {
    const { sendOn } = await somebody()
    const small = () => ({ ...relayOf(sendOn).make(), headLimits: { headBytes: 256 } })
    expect(await warmUp(small, { maxRequests: 60, within: 300, needed: () => true })).toBeLessThan(60)
  })

  it('survives an owner that has gone before a message: no code would catch the error', async () => {
    const [here, there] = socketPair('gone')
    const standIn = new StandIn(there, () => standIn.send(Buffer.from('to nobody')))
    here.close()
    expect(() => standIn.send(Buffer.from('to nobody'))).not.toThrow()
    expect(standIn.open).toBe(false)
    const [other, reset] = socketPair('reset')
    const another = new StandIn(reset, () => {})
    another.send(Buffer.from('never read'))
    other.close()
    await until('it has heard', () => !another.open)
  })

  it('comes to its end where every request is refused', async () => {
    const { make, reports } = relayOf({ kind: 'refuse', status: 403, reason: 'nobody-may' })
    expect(await warmUp(make, { maxRequests: 60, within: 20_000, needed: () => true })).toBe(60)
    expect(new Set(reports.map(({ status }) => status))).toEqual(new Set([403]))
  })
})
