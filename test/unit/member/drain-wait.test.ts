import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { join } from '../../../src/index.js'
import { ConnectionDrain } from '../../../src/member/drain/connection-drain.js'
import { EndOrder } from '../../../src/member/lifecycle/end-order.js'
import { until } from '../../processes/until.js'

type Deps = ConstructorParameters<typeof ConnectionDrain>[0]

/** Drains a listener. Connections are closed after `plain` and, with TLS, after `tls` milliseconds. */
function drain(
  keeper: ReturnType<Deps['listeners']>[number],
  { plain, tls }: { plain: number; tls: number },
  settled: () => Promise<void>,
  onCut: Deps['onCut'],
): Promise<void> {
  return new ConnectionDrain({
    settings: { drainTimeout: plain, drainTlsTimeout: tls, logger: SILENT },
    shutdown: { isRetired: true, order: new EndOrder() },
    listeners: () => [keeper],
    moves: { leave() {}, limit() {}, settled, whenArrived: act => act() },
    onCut,
    onEnded() {},
  }).run(true)
}

describe('the wait for the last connection', () => {
  it('goes on, and lets others have their turn, where a keeper says that it is empty and has connections', async () => {
    let connections = 2
    const keeper = {
      get connections() {
        return connections
      },
      hasTlsConnections: false,
      finish() {},
      endIdle() {},
      emptied: () => Promise.resolve(),
      cut() {
        const busy = connections
        connections = 0
        return { idle: 0, busy }
      },
      cutReturned: () => ({ idle: 0, busy: 0 }),
    }
    const cuts: number[] = []
    await drain(
      keeper,
      { plain: 30, tls: 60 },
      () => Promise.resolve(),
      ({ busy }) => cuts.push(busy),
    )
    expect(connections).toBe(0)
    expect(cuts).toEqual([2])
  })

  it('ends for a connection that was between two processes when its time was over, and came back', async () => {
    let connections = 1
    const waiting: (() => void)[] = []
    const leave = () => {
      connections = 0
      for (const resolve of waiting.splice(0)) resolve()
    }
    const end = () => {
      const idle = connections
      leave()
      return { idle, busy: 0 }
    }
    const keeper = {
      get connections() {
        return connections
      },
      hasTlsConnections: false,
      finish() {},
      endIdle() {},
      emptied: () =>
        connections === 0 ? Promise.resolve() : new Promise<void>(resolve => void waiting.push(resolve)),
      cut: end,
      cutReturned: end,
    }
    let comeBack = () => {}
    const returned = new Promise<void>(resolve => {
      comeBack = resolve
    })
    const cuts: number[] = []
    const drained = drain(
      keeper,
      { plain: 10, tls: 10 },
      () => returned,
      ({ idle }) => cuts.push(idle),
    )
    leave()
    await new Promise(resolve => setTimeout(resolve, 30))
    connections = 1
    comeBack()
    await drained
    expect([connections, cuts]).toEqual([0, [1]])
  })

  it('becomes shorter by a later close with a shorter time, and not longer by one with a longer time', async () => {
    const member = await join({ service: 'shop', control: false })
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = createServer(socket => socket.on('error', () => {}))
    web.serve(server)
    await member.ready()
    const client = connect(web.address.port!, '127.0.0.1')
    client.on('error', () => {})
    onTestFinished(() => void client.destroy())
    await once(server, 'connection')
    const closed = [member.close({ timeout: 60_000 })]
    await until('it drains', () => member.phase === 'leaving')
    closed.push(member.close({ timeout: 20 }), member.close({ timeout: 60_000 }))
    await until('it has ended', () => member.phase === 'gone', 5_000)
    await Promise.all(closed)
  })
})
