import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Timed, TimerWheel } from '../../../src/relay/timer-wheel.js'
import { until } from '../../processes/until.js'

class Entry implements Timed {
  deadline = 0
  tick = -1
  readonly at: number[] = []
  readonly done: Promise<void>
  #resolve = (): void => {}

  constructor() {
    this.done = new Promise(resolve => {
      this.#resolve = resolve
    })
  }

  onDeadline(): void {
    this.at.push(performance.now())
    this.#resolve()
  }
}

describe('the timer wheel', () => {
  it('turns as long as an entry waits', async () => {
    const wheel = new TimerWheel(5)
    const [sooner, later] = [new Entry(), new Entry()]
    wheel.arm(sooner, 1)
    wheel.arm(later, 60)
    await until('both have expired', () => sooner.at.length + later.at.length === 2)
  })

  it('lets an entry hear what has arrived first, however long the process was held up', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void server.close())
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    const [socket] = (await once(server, 'connection')) as [Socket]
    const wheel = new TimerWheel(5)
    const entry = new Entry()
    const heard = new Promise<void>(resolve =>
      socket.once('data', () => {
        wheel.disarm(entry)
        resolve()
      }),
    )
    wheel.arm(entry, 1)
    client.write('x')
    for (const end = performance.now() + 50; performance.now() < end; );
    await heard
    expect(entry.at).toEqual([])
  })

  it('gives an entry its whole time from what it hears first after the process was held up', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void server.close())
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    const [socket] = (await once(server, 'connection')) as [Socket]
    const wheel = new TimerWheel(25)
    const entry = new Entry()
    let heardAt = Number.NaN
    socket.once('data', () => {
      heardAt = performance.now()
      wheel.arm(entry, 60)
    })
    wheel.arm(entry, 1)
    client.write('x')
    for (const end = performance.now() + 200; performance.now() < end; );
    await entry.done
    expect(entry.at[0]! - heardAt).toBeGreaterThanOrEqual(60)
  })

  it('answers how long an entry has still, to its deadline and not to the tick behind', () => {
    const wheel = new TimerWheel(50)
    const entry = new Entry()
    wheel.arm(entry, 1_000)
    const armed = wheel.remaining(entry)
    wheel.disarm(entry)
    expect([Math.round(armed), wheel.remaining(entry)]).toEqual([1_000, -1])
  })

  it('calls each entry once, in the order of the deadlines and never early', async () => {
    const wheel = new TimerWheel(5)
    const start = performance.now()
    const waits = [90, 10, 50, 30, 1]
    const entries = waits.map(ms => {
      const entry = new Entry()
      wheel.arm(entry, ms)
      return entry
    })
    await Promise.all(entries.map(entry => entry.done))
    const took = entries.map(entry => entry.at[0]! - start)
    for (const [i, ms] of waits.entries()) expect(took[i]).toBeGreaterThanOrEqual(ms)
    const order = waits.map((_, i) => i).toSorted((a, b) => took[a]! - took[b]!)
    expect(order).toEqual([4, 1, 3, 2, 0])
    expect(entries.every(entry => entry.at.length === 1 && entry.tick === -1)).toBe(true)
  })

  it('waits for the last deadline given, earlier or later than the one before', async () => {
    const wheel = new TimerWheel(5)
    const [sooner, later, never] = [new Entry(), new Entry(), new Entry()]
    const start = performance.now()
    wheel.arm(sooner, 100_000)
    wheel.arm(sooner, 20)
    wheel.arm(later, 10)
    wheel.arm(later, 80)
    wheel.arm(never, 10)
    wheel.disarm(never)
    await Promise.all([sooner.done, later.done])
    expect(sooner.at[0]! - start).toBeLessThan(100_000)
    expect(sooner.at[0]! - start).toBeGreaterThanOrEqual(20)
    expect(later.at[0]! - start).toBeGreaterThanOrEqual(80)
    expect(never.at).toEqual([])
  })

  it('keeps deadlines beyond one turn of the wheel', async () => {
    const wheel = new TimerWheel(1)
    const entry = new Entry()
    const start = performance.now()
    wheel.arm(entry, 400)
    await entry.done
    expect(entry.at[0]! - start).toBeGreaterThanOrEqual(400)
  })

  it('tells what is left, and nothing for what is not armed', async () => {
    const wheel = new TimerWheel(5)
    const entry = new Entry()
    expect(wheel.remaining(entry)).toBe(-1)
    wheel.arm(entry, 1_000)
    expect(wheel.remaining(entry)).toBeGreaterThan(980)
    wheel.disarm(entry)
    expect(wheel.remaining(entry)).toBe(-1)
  })

  it('can be armed again from within its own call, after a rest too', async () => {
    const wheel = new TimerWheel(2)
    let calls = 0
    await new Promise<void>(resolve => {
      const entry: Timed = {
        deadline: 0,
        tick: -1,
        onDeadline() {
          if (++calls === 3) resolve()
          else if (calls === 2) setTimeout(() => wheel.arm(entry, 5), 20)
          else wheel.arm(entry, 5)
        },
      }
      wheel.arm(entry, 5)
    })
    expect(calls).toBe(3)
  })
})
