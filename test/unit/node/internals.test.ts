import dgram from 'node:dgram'
import http from 'node:http'
import net from 'node:net'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { describeMissing, internal } from '../../../src/node/internal.js'
import { INTERNALS, missingInternals, reportMissing } from '../../../src/node/missing-internals.js'
import { SOCKET_HANDLE } from '../../../src/node/socket-handle.js'
import { TLS_INTERNALS } from '../../../src/node/tls-internals.js'

const ALL = [...INTERNALS, ...TLS_INTERNALS]

afterEach(() => {
  vi.restoreAllMocks()
  vi.resetModules()
})

/** The probes as a process has them that has not asked yet. */
async function freshProbes() {
  const { INTERNALS: sockets, missingInternals: missing } = await import(
    '../../../src/node/missing-internals.js'
  )
  const { TLS_INTERNALS: tls } = await import('../../../src/node/tls-internals.js')
  return { all: [...sockets, ...tls], missing }
}

async function missingNow(): Promise<string[]> {
  vi.resetModules()
  const { all, missing } = await freshProbes()
  return missing(all).map(({ details }) => (details.internal as string).split(' ')[0]!)
}

describe('the inside of Node', () => {
  it('matches the expectations on this version', () => {
    expect(missingInternals(ALL)).toEqual([])
  })

  it('passes a check part by part on a Node of another version, each in a turn of the event loop of its own', async () => {
    const [turns, told]: [number[], string[]] = [[], []]
    let turn = 0
    let done = false
    const count = () => {
      turn++
      if (!done) setImmediate(count)
    }
    setImmediate(count)
    const tried = (works: boolean) => () => {
      turns.push(turn)
      return works
    }
    const parts = [true, false, true].map((works, n) => internal(`part ${n}`, 'nothing', tried(works)))
    await reportMissing({}, ({ code, details }) => told.push(`${code} ${details.internal}`), {
      soon: parts,
      late: [],
      node: '27.0.0',
    })
    done = true
    expect(turns).toEqual([turns[0]!, turns[0]! + 1, turns[0]! + 2])
    expect(told).toEqual(['ERR_FDB_NODE part 1'])
  })

  it('causes a report where it is missing when it is first needed, if only some need it', async () => {
    const told: string[] = []
    const who = {}
    const attempt = vi.fn(() => false)
    const [missed, there] = [internal('a', 'b', attempt), internal('c', 'd', () => true)]
    const tell = () =>
      reportMissing(who, ({ details }) => told.push(String(details.internal)), {
        soon: [],
        late: [missed, there],
      })
    await tell()
    await tell()
    expect(attempt).not.toHaveBeenCalled()
    expect([missed.works, missed.works, there.works]).toEqual([false, false, true])
    expect(told).toEqual(['a'])
    // A later caller is told at once.
    await tell()
    expect(told).toEqual(['a', 'a'])
    expect(attempt).toHaveBeenCalledOnce()
  })

  it('stays unchecked at the start on a Node that fd-broker is tested on, until it is needed', async () => {
    const told: string[] = []
    const attempt = vi.fn(() => false)
    const part = internal('a', 'b', attempt)
    await reportMissing({}, ({ details }) => told.push(String(details.internal)), { soon: [part], late: [] })
    expect([part.assumed, attempt.mock.calls.length, told]).toEqual([true, 0, []])
    expect([part.works, part.assumed, told]).toEqual([false, false, ['a']])
  })

  it('has a probe for each of its parts, and none for two', () => {
    expect(new Set(ALL.map(({ name }) => name)).size).toBe(ALL.length)
    expect(ALL).toHaveLength(12)
  })

  it('causes an error with its name where it differs', async () => {
    const servers = net.Server.prototype
    const kept = Reflect.get(servers, '_emitCloseIfDrained')
    Reflect.set(servers, '_emitCloseIfDrained', undefined)
    try {
      expect(await missingNow()).toContain('server._emitCloseIfDrained')
    } finally {
      Reflect.set(servers, '_emitCloseIfDrained', kept)
    }
    expect(await missingNow()).toEqual([])
  })

  it('causes an error where servers listen to their connections otherwise', async () => {
    vi.spyOn(http.Server.prototype, 'listeners').mockReturnValue([])
    expect(await missingNow()).toEqual(['server[Symbol(http.server.connections)].idle()', 'ServerResponse'])
  })

  it('causes an error where a UDP socket keeps its handle elsewhere', async () => {
    vi.spyOn(dgram, 'createSocket').mockReturnValue({ close() {} } as dgram.Socket)
    expect(await missingNow()).toEqual(['socket[Symbol(state'])
  })

  it('causes an error where a server counts its connections elsewhere', async () => {
    const servers = net.Server.prototype
    Object.defineProperty(servers, '_connections', { configurable: true, set() {}, get: () => undefined })
    expect(await missingNow()).toContain('server._connections')
    Reflect.deleteProperty(servers, '_connections')
  })

  it('causes an error where a socket keeps its handle elsewhere', async () => {
    vi.doMock('../../../src/kernel/index.js', async original => ({
      ...(await original<object>()),
      socketOver: () => new net.Socket(),
    }))
    try {
      expect(await missingNow()).toEqual(['socket._handle', 'process._getActiveRequests()'])
    } finally {
      vi.doUnmock('../../../src/kernel/index.js')
    }
  })
})

describe('a missing part of Node', () => {
  it('says what, of which Node, what follows, and what to do', () => {
    const text = describeMissing(internal('socket._x', 'they drain', () => false))
    expect(text).toBe(
      `Node ${process.versions.node} has no socket._x like Node 20 to 26: they drain; use one of these versions, or a release of fd-broker that supports this one`,
    )
  })

  it('causes an error with a code', () => {
    const [error, ...others] = missingInternals([internal('a', 'b', () => false), SOCKET_HANDLE])
    expect(error).toMatchObject({
      code: 'ERR_FDB_NODE',
      details: { internal: 'a', node: process.versions.node },
    })
    expect(others).toEqual([])
  })

  it('was tried once', () => {
    const attempt = vi.fn(() => false)
    const one = internal('a', 'b', attempt)
    expect([one.works, one.works]).toEqual([false, false])
    expect(attempt).toHaveBeenCalledTimes(1)
  })

  it('counts as there, and is tried again, while there is no descriptor to try it with', () => {
    let room = false
    const one = internal('a', 'b', () => {
      if (room) return false
      throw Object.assign(new Error('no room'), { code: 'EMFILE' })
    })
    expect(one.works).toBe(true)
    room = true
    expect(one.works).toBe(false)
  })
})
