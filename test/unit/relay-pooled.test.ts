import { describe, expect, it } from 'vitest'
import type { ByteStream, StreamOwner } from '../../src/relay/byte-stream.js'
import { type Destination, UpstreamPools } from '../../src/relay/index.js'
import { TimerWheel } from '../../src/relay/timer-wheel.js'
import { until } from '../processes/until.js'

const SERVER = {
  key: 'a',
  authority: 'a',
  keepAlive: { connections: 4, idleMs: 1_000 },
} as unknown as Destination
const OWNER = {} as StreamOwner

interface Stream extends ByteStream {
  reading: boolean
  destroyed: boolean
}

function stream(): Stream {
  const made = {
    owner: null,
    reading: false,
    destroyed: false,
    setReading: (on: boolean) => {
      made.reading = on
    },
    destroy: () => {
      made.destroyed = true
    },
  }
  return made as unknown as Stream
}

function poolsWith() {
  const dialled: Stream[] = []
  const dial = () => {
    dialled.push(stream())
    return dialled.at(-1)!
  }
  return { pools: new UpstreamPools({ dial }, new TimerWheel(10)), dialled }
}

describe('an unused connection to a server', () => {
  it('is read from, so that its end is heard, although the exchange before had stopped reading', () => {
    const { pools } = poolsWith()
    const one = stream()
    pools.release(SERVER, one)
    expect(one.reading).toBe(true)
    one.owner!.onEnd(one)
    expect(one.destroyed).toBe(true)
    expect(pools.idle).toBe(0)
    expect(pools.acquire(SERVER, OWNER, false)).not.toBe(one)
  })

  it('is not used when it is older than it may be, whatever has closed it by then', () => {
    const { pools } = poolsWith()
    const one = stream()
    pools.release(SERVER, one, performance.now() - 1_000)
    expect(pools.acquire(SERVER, OWNER, false)).not.toBe(one)
  })

  it('is closed when its time is over, and one that came later when its own is', async () => {
    const { pools } = poolsWith()
    const server = { ...SERVER, keepAlive: { connections: 4, idleMs: 200 } }
    const [one, two] = [stream(), stream()]
    const begun = performance.now()
    pools.release(server, one)
    await until('half of its time is over', () => performance.now() > begun + 100)
    pools.release(server, two)
    await until('the first is closed', () => one.destroyed)
    expect(pools.idle).toBe(two.destroyed ? 0 : 1)
    await until('the second is closed', () => two.destroyed)
  })
})
