import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { spawnLoad } from '../../../bench/referee/remote.mjs'
import { shopWorkload } from '../../../bench/referee/shop.mjs'
import type { LOSSES, NOTES } from '../../../bench/referee/verdicts.mjs'
import { answer, badServer, FRESH, goodServer, READS, referee, right } from './load-servers.js'

type Report = Awaited<ReturnType<typeof referee>>
type Kind = (typeof LOSSES)[number] | (typeof NOTES)[number]

/** Everything that was counted, without the zeros. */
function counted(report: Report) {
  return Object.fromEntries(Object.entries(report.total.counts).filter(([, count]) => count > 0))
}

/** That crime and no other. */
function expectOnly(report: Report, kind: Kind) {
  expect(Object.keys(counted(report)), JSON.stringify(report.incidents.slice(0, 5))).toEqual([kind])
  expect(report.incidents[0]?.kind).toBe(kind)
}

const losses = (count: number) => (so: { lost: number }) => so.lost >= count

describe('a good server', () => {
  it('stays without a verdict, by any kind of request', async () => {
    await using server = await goodServer()
    const workload = shopWorkload({ routes: 500, lines: 10 })
    // Server, clients and other tests share the processors: seconds would be a verdict on the machine.
    const mix = {
      rate: 400,
      slow: 10,
      streams: 5,
      writes: 50,
      idle: 10,
      idleEveryMs: 300,
      lateMs: 30_000,
      deadlineMs: 30_000,
      workload,
    }
    const report = await referee(server.target, mix, so => so.answered >= 500)
    expect(counted(report)).toEqual({})
    expect(report.total.answered).toBe(report.total.sent)
    expect(report.total.generations).toEqual({ [`1/${process.pid}`]: report.total.answered })
  })

  it('may close a connection that it has announced to close', async () => {
    await using server = await badServer(({ socket, path }) => {
      socket.end(right(path, 'Connection: close\r\n'))
    })
    const report = await referee(server.target, READS, so => so.answered >= 30)
    expect(counted(report)).toEqual({})
    expect(report.total.answered).toBeGreaterThanOrEqual(30)
  })

  it('may close an idle connection after the keep-alive time that it has promised', async () => {
    await using server = await badServer(({ socket, path }) => {
      socket.write(right(path, 'Keep-Alive: timeout=1\r\n'))
      setTimeout(() => socket.end(), 1050)
    })
    const once = { ...READS, rate: 0, idle: 1, idleEveryMs: 1500 }
    const report = await referee(server.target, once, so => so.counts.expired >= 1)
    expectOnly(report, 'expired')
  })

  it('may answer a write with 503 and Retry-After: the write is sent again', async () => {
    let refused = 0
    await using server = await goodServer((request, response) => {
      if (request.method !== 'PUT' || refused >= 3) return false
      refused++
      request.resume()
      response.writeHead(503, { 'retry-after': '0', 'content-length': '0' }).end()
      return true
    })
    const writes = { ...READS, writes: 50 }
    const report = await referee(server.target, writes, so => so.counts.retried >= 3 && so.answered > 50)
    expectOnly(report, 'retried')
    expect(report.total.counts.retried).toBe(3)
    expect(report.total.lost).toBe(0)
  })
})

describe('refused', () => {
  it('counts when no process listens on the port', async () => {
    const server = await goodServer()
    await server[Symbol.asyncDispose]()
    expectOnly(await referee(server.target, READS, losses(10)), 'refused')
  })

  it('counts when the Unix path is gone', async () => {
    expectOnly(await referee('unix:/nonexistent/fd-broker.sock', FRESH, losses(10)), 'refused')
  })

  it('counts when no process listens on the Unix path any more, and not before', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-load-'))
    try {
      const path = join(folder, 's')
      const server = await badServer(({ socket, path }) => socket.write(right(path)), path)
      const before = await referee(server.target, FRESH, so => so.answered >= 20)
      expect(counted(before)).toEqual({})
      await server[Symbol.asyncDispose]()
      expectOnly(await referee(server.target, FRESH, losses(10)), 'refused')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe('reset', () => {
  it('counts for RST instead of the answer on a fresh connection', async () => {
    await using server = await badServer(({ socket }) => socket.resetAndDestroy())
    expectOnly(await referee(server.target, FRESH, losses(10)), 'reset')
  })

  it('counts for FIN instead of the answer on a fresh connection', async () => {
    await using server = await badServer(({ socket }) => socket.end())
    expectOnly(await referee(server.target, FRESH, losses(10)), 'reset')
  })

  it('counts for RST inside the answer', async () => {
    await using server = await badServer(({ socket }) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', () => {
        // Behind a look at the sockets: where half and RST are found together, libuv tells of an end (uv__stream_io, POLLHUP).
        setTimeout(() => setImmediate(() => socket.resetAndDestroy()), 5)
      })
    })
    expectOnly(await referee(server.target, READS, losses(10)), 'reset')
  })
})

describe('dropped', () => {
  it('counts when there is no answer before the deadline', async () => {
    await using server = await badServer(() => {})
    expectOnly(await referee(server.target, { ...FRESH, deadlineMs: 200 }, losses(10)), 'dropped')
  })

  it('counts when the answer stops half-way', async () => {
    await using server = await badServer(({ socket }) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf')
    })
    expectOnly(await referee(server.target, { ...READS, deadlineMs: 200 }, losses(10)), 'dropped')
  })

  it('counts for requests that found no free connection', async () => {
    await using server = await badServer(() => {})
    const crowded = { ...READS, connections: 1, deadlineMs: 200 }
    const report = await referee(server.target, crowded, losses(30))
    expectOnly(report, 'dropped')
    expect(report.total.counts.dropped).toBe(report.total.sent)
  })
})

describe('raced', () => {
  it('counts when an idle connection is closed with our request on the way, unread', async () => {
    await using server = await badServer(({ socket, path }) => {
      socket.pause()
      socket.write(right(path))
      // Unread bytes in the kernel make this an RST, as for any server that closes its idle connections.
      setTimeout(() => socket.destroy(), 100)
    })
    const report = await referee(server.target, { ...READS, connections: 1 }, losses(5))
    // Where this process had no processor for so long, no request was on the way yet.
    expect(Object.keys(counted(report)).filter(kind => kind !== 'closedIdle')).toEqual(['raced'])
  })

  it('counts when the FIN crosses our request', async () => {
    await using server = await badServer(({ socket, path, before }) => {
      if (before === 0) socket.write(right(path))
      else socket.end()
    })
    expectOnly(await referee(server.target, READS, losses(5)), 'raced')
  })
})

describe('truncated', () => {
  it('counts when the body is shorter than promised', async () => {
    await using server = await badServer(({ socket }) => {
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf')
    })
    expectOnly(await referee(server.target, READS, losses(10)), 'truncated')
  })

  const stream = { ...READS, rate: 0, streams: 50 }

  it('counts when a stream is cut', async () => {
    await using server = await badServer(({ socket }) => {
      socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nline 0\n\r\n')
    })
    expectOnly(await referee(server.target, stream, losses(5)), 'truncated')
  })

  it('counts when a stream ends in good order, but too early', async () => {
    await using server = await badServer(({ socket }) => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nline 0\n\r\n0\r\n\r\n')
    })
    expectOnly(await referee(server.target, stream, losses(5)), 'truncated')
  })
})

describe('wrong', () => {
  it.each([
    ['another status', () => 'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n'],
    ['another body', () => answer('1 item-2\n')],
    ['the answer of another route', (path: string) => right(path.replace('/r/', '/r/1'))],
    ['no length', (path: string) => right(path).replace(/Content-Length.*\r\n/, '')],
    ['bytes after the answer', (path: string) => `${right(path)}?`],
    ['two lengths', (path: string) => right(path, 'Content-Length: 3\r\n')],
    ['something else than HTTP', () => 'hello\r\n\r\n'],
    ['a bad chunk', () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n'],
  ])('counts for %s', async (_, respond) => {
    await using server = await badServer(({ socket, path }) => socket.write(respond(path)))
    expectOnly(await referee(server.target, READS, losses(10)), 'wrong')
  })

  it('counts once, and the connection is not used again, also where requests wait for one', async () => {
    await using server = await badServer(({ socket }) => socket.write('hello\r\n\r\n'))
    expectOnly(await referee(server.target, { ...READS, connections: 1, rate: 1_000 }, losses(50)), 'wrong')
  })

  it('counts for a number that is missing in a stream', async () => {
    await using server = await goodServer((request, response) => {
      if (!request.url?.startsWith('/stream')) return false
      response.write('line 0\nline 1\n')
      response.end('line 3\n')
      return true
    })
    const workload = shopWorkload({ lines: 3 })
    expectOnly(await referee(server.target, { ...READS, streams: 50, workload }, losses(5)), 'wrong')
  })

  it('counts for an answer without a request', async () => {
    await using server = await badServer(({ socket, path }) => {
      socket.write(right(path))
      setTimeout(() => socket.write(right(path)), 5)
    })
    const quiet = { ...READS, rate: 0, idle: 5, idleEveryMs: 500 }
    expectOnly(await referee(server.target, quiet, losses(3)), 'wrong')
  })

  it('counts for an acknowledged write that is lost', async () => {
    await using server = await goodServer((request, response) => {
      if (request.method !== 'PUT') return false
      request.resume()
      response.end('written\n')
      return true
    })
    const writes = { ...READS, writes: 100, workload: shopWorkload({ routes: 10 }) }
    expectOnly(await referee(server.target, writes, losses(5)), 'wrong')
  })
})

describe('notes', () => {
  it('counts a connection that is closed while idle, and loses no request for it', async () => {
    await using server = await badServer(({ socket, path }) => {
      socket.write(right(path))
      setTimeout(() => socket.end(), 20)
    })
    const idle = { ...READS, rate: 0, idle: 10, idleEveryMs: 1000 }
    const report = await referee(server.target, idle, so => so.counts.closedIdle >= 5)
    expectOnly(report, 'closedIdle')
    expect(report.total.lost).toBe(0)
  })

  it('counts a right answer that is late', async () => {
    await using server = await badServer(({ socket, path }) => {
      setTimeout(() => socket.write(right(path)), 120)
    })
    expectOnly(await referee(server.target, { ...READS, lateMs: 100 }, so => so.counts.late >= 5), 'late')
  })

  it('shows a stall in every request that fell into it, not only in those outstanding when it began', async () => {
    const held: (() => void)[] = []
    let holding = false
    await using server = await badServer(({ socket, path }) => {
      const respond = () => socket.write(right(path))
      if (holding) held.push(respond)
      else respond()
    })
    setTimeout(() => {
      holding = true
    }, 100)
    setTimeout(() => {
      holding = false
      for (const respond of held) respond()
    }, 500)
    const report = await referee(server.target, { ...READS, connections: 1 }, so => so.seconds > 0.7)
    expect(counted(report)).toEqual({})
    expect(report.total.worstGapMs).toBeGreaterThan(350)
    expect(report.total.latencyMs.max).toBeGreaterThan(350)
    // More than half of 0.7 s of arrivals fell into the stall.
    expect(report.total.latencyMs.p50).toBeGreaterThan(5)
  })
})

describe('the load as a process', () => {
  it('sends at its rate, reports phases, and ends with the whole report', async () => {
    await using server = await goodServer()
    const load = spawnLoad({ target: server.target, rate: 300, lines: 5, every: 500 })
    await expect.poll(() => load.snapshot()?.answered ?? 0, { timeout: 10_000 }).toBeGreaterThan(100)
    const first = await load.mark('second half')
    // An answer from before the mark must not count as one after it.
    expect(load.snapshot()?.phase.name).toBe('second half')
    await expect.poll(() => load.snapshot()?.phase.answered ?? 0, { timeout: 10_000 }).toBeGreaterThan(100)
    const report = await load.stop()
    expect(first.name).toBe('start')
    expect(report.phases.map(phase => phase.name)).toEqual(['start', 'second half'])
    expect(report.total.lost).toBe(0)
    expect(report.total.sent).toBe(report.phases.reduce((sum, phase) => sum + phase.sent, 0))
  })
})
