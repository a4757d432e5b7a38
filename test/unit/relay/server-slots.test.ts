import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import {
  type ByteStream,
  type Destination,
  NO_OWNER,
  SlotFile,
  UpstreamPools,
} from '../../../src/relay/index.js'
import { until } from '../../processes/until.js'

function place(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-slots-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return join(folder, 'slots')
}

const unexpected = (error: unknown) => {
  throw error
}

/** Stands for one process of the service. */
function open(path: string, service = 'edge', touched: () => void = () => {}): SlotFile {
  const file = SlotFile.open(path, service, { touched, failed: unexpected })
  onTestFinished(() => file[Symbol.dispose]())
  return file
}

describe('the slots of a server', () => {
  it('go to several processes, and to others when they are released', () => {
    const path = place()
    const [a, b] = [open(path).of('http://x'), open(path).of('http://x')]
    const taken = [a.take(3), b.take(3), a.take(3)]
    expect(taken).not.toContain(null)
    expect([a.take(3), b.take(3)]).toEqual([null, null])
    expect([a.held, b.held]).toEqual([2, 1])
    taken[0]!.release()
    expect(b.take(3)).not.toBeNull()
    expect(a.take(3)).toBeNull()
  })

  it('belong to one server of one service', () => {
    const path = place()
    const slots = [open(path).of('http://x'), open(path).of('http://y'), open(path, 'other').of('http://x')]
    for (const each of slots) expect([each.take(1), each.take(1)]).toMatchObject([{}, null])
  })

  it('become free when their process has closed the file, as after its end', () => {
    const path = place()
    const ended = open(path)
    const slots = open(path).of('http://x')
    expect(ended.of('http://x').take(1)).not.toBeNull()
    expect(slots.take(1)).toBeNull()
    ended[Symbol.dispose]()
    expect(slots.take(1)).not.toBeNull()
  })

  it('stay undivided in a process whose file has failed, as it does without memory for locks', () => {
    const path = place()
    const [file, other] = [open(path), open(path).of('http://x')]
    const slots = file.of('http://x')
    expect([slots.take(1) !== null, other.take(1)]).toEqual([true, null])
    file[Symbol.dispose]()
    expect(other.take(1)).not.toBeNull()
    expect([slots.held, slots.take(1), slots.take(2) !== null, slots.look()]).toEqual([1, null, true, false])
    slots.want(true)
    expect(slots.take(3)!.handOver()).toBeNull()
  })

  it('show among many that others have, with gaps', () => {
    const path = place()
    const [a, b] = [open(path).of('http://x'), open(path).of('http://x')]
    const all = Array.from({ length: 1000 }, (_, n) => (n % 2 === 0 ? a : b).take(1000)!)
    expect([a.take(1000), b.take(1000)]).toEqual([null, null])
    for (let n = 0; n < 1000; n += 10) all[n]!.release()
    for (let n = 0; n < 100; n++) expect(b.take(1000)).not.toBeNull()
    expect([a.take(1000), b.take(1000), a.held, b.held]).toEqual([null, null, 400, 600])
  })

  it('stay taken while they move to another process, and come back with a connection that returns', () => {
    const path = place()
    const [a, b, c] = [open(path), open(path), open(path)].map(file => file.of('http://x'))
    const lock = a!.take(1)!.handOver()!
    expect([a!.held, a!.take(1), c!.take(1)]).toEqual([0, null, null])
    const moved = b!.adopt(lock)
    expect([b!.held, c!.take(1)]).toEqual([1, null])
    const back = a!.adopt(moved.handOver()!)
    expect([b!.held, c!.take(1)]).toEqual([0, null])
    back.release()
    expect(c!.take(1)).not.toBeNull()
  })

  it('show as wanted while another process says so', async () => {
    const path = place()
    let touches = 0
    const a = open(path, 'edge', () => touches++).of('http://x')
    const b = open(path).of('http://x')
    expect(a.look()).toBe(false)
    b.want(true)
    await until('the other process hears it', () => touches > 0)
    expect([a.look(), b.look()]).toEqual([true, false])
    b.want(false)
    expect(a.look()).toBe(false)
  })
})

/** A server that keeps its connections, and the pools of two processes that may have `connections` together. */
async function twoPools(connections: number) {
  const path = place()
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.resume().on('close', () => sockets.delete(socket))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const open = { fails: false, count: 0 }
  const slotFile = (touched: () => void) => {
    open.count++
    return open.fails ? null : SlotFile.open(path, 'edge', { touched, failed: unexpected })
  }
  const make = () => new UpstreamPools({ slotFile })
  const [a, b] = [make(), make()] as const
  const destination: Destination = {
    key: 'x',
    authority: 'x',
    address: { kind: 'tcp', host: '127.0.0.1', port },
    connections,
  }
  onTestFinished(() => {
    a.close()
    b.close()
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    a,
    b,
    destination,
    open,
    sockets,
    get: (pools: UpstreamPools) => {
      const stream = pools.acquire(destination, NO_OWNER, false)
      if (stream !== null) onTestFinished(() => stream.destroy())
      return stream
    },
  }
}

describe('a process that could not open the common file', () => {
  it('shares the limit as soon as that is possible again', async () => {
    const { a, b, destination, get, open } = await twoPools(1)
    expect(get(a)).not.toBeNull()
    // The descriptors of the process were used up.
    open.fails = true
    const own = get(b)!
    own.destroy()
    open.fails = false
    await until('it has none any more', () => b.open === 0)
    expect(b.acquire(destination, NO_OWNER, false, performance.now() + 10_000)).toBeNull()
    expect(open.count).toBe(3)
  })
})

describe('a request for a connection that another process has', () => {
  it('waits until the other process closes an idle one, and no longer', async () => {
    const { a, b, destination, get } = await twoPools(2)
    for (const stream of [get(a)!, get(a)!]) {
      await until('it is connected', () => !stream.connecting)
      a.release(destination, stream)
    }
    expect([a.idle, get(b)]).toEqual([2, null])
    const free = await new Promise<boolean>(resolve => {
      const waiting = b.wait(destination, is => {
        waiting!.destroy()
        resolve(is && get(b) !== null)
      })
    })
    expect([free, a.idle, b.open]).toEqual([true, 1, 1])
  })

  it('gets one that becomes idle while it waits', async () => {
    const { a, b, destination, get } = await twoPools(1)
    const busy = get(a)!
    await until('it is connected', () => !busy.connecting)
    expect(get(b)).toBeNull()
    let free: boolean | null = null
    const waiting = b.wait(destination, is => {
      waiting!.destroy()
      free = is && get(b) !== null
    })
    await until('the other process knows', () => {
      if (busy.alive) a.release(destination, busy)
      return free !== null
    })
    expect([free, a.open, b.open]).toEqual([true, 0, 1])
  })

  it('gives up if the other process needs all of them', async () => {
    const { a, b, destination, get } = await twoPools(1)
    expect([get(a) !== null, get(b)]).toEqual([true, null])
    const free = await new Promise(resolve => {
      const waiting = b.wait(destination, is => {
        waiting!.destroy()
        resolve(is)
      })
    })
    expect([free, get(b)]).toEqual([false, null])
  })

  it('leaves no timer when its wait is over, as often as it waits', async () => {
    const { a, b, destination, get } = await twoPools(1)
    const busy = get(a)!
    await until('it is connected', () => !busy.connecting)
    expect(get(b)).toBeNull()
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    for (let again = 0; again < 2; again++) {
      const waiting = b.wait(destination, () => {})
      expect(vi.getTimerCount()).toBe(1)
      waiting!.destroy()
      expect(vi.getTimerCount()).toBe(0)
    }
  })

  it('does not wait if its own process has all', async () => {
    const { a, destination, get } = await twoPools(1)
    expect(get(a)).not.toBeNull()
    expect([get(a), a.wait(destination, () => {})]).toEqual([null, null])
  })

  it('leaves a moved connection its slot', async () => {
    const { a, b, destination, get } = await twoPools(1)
    const stream = get(a)!
    await until('it is connected', () => !stream.connecting)
    const lock = a.handOverSlot(stream)!
    stream.destroy()
    await until('the microtasks have run', () => true)
    expect(get(a)).toBeNull()
    lock.close()
    expect(get(b)).not.toBeNull()
    expect(destination.connections).toBe(1)
  })

  it('gets no slot in use of a server that was removed and has come back', async () => {
    const { a, b, destination, get } = await twoPools(1)
    const stream = get(a)!
    await until('it is connected', () => !stream.connecting)
    a.retire(() => true)
    a.release(destination, stream)
    expect(get(a)).not.toBeNull()
    await until('the microtasks have run', () => true)
    expect(get(b)).toBeNull()
  })

  it('waits on for a server that was removed and comes back, in one line with those that come later', async () => {
    const { a, b, destination, get } = await twoPools(1)
    const busy = get(b)!
    await until('it is connected', () => !busy.connecting)
    const times = { arrived: performance.now(), until: performance.now() + 10_000 }
    const served: string[] = []
    const queue = (name: string) => {
      const stream: ByteStream = a.queue(
        [destination],
        times,
        () => {
          served.push(name)
          stream.destroy()
          get(a)!.destroy()
        },
        () => {},
      )
    }
    queue('first')
    a.retire(() => true)
    queue('second')
    expect(a.size).toBe(1)
    // The one that came first is served first, and the later ones have not the slot meanwhile.
    expect(get(a)).toBeNull()
    busy.destroy()
    await until('both are served', () => served.length === 2)
    expect(served).toEqual(['first', 'second'])
  })
})
