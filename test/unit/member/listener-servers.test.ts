import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import http2 from 'node:http2'
import { type AddressInfo, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { join, type Listener, type Member, OwnedFd } from '../../../src/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import type { ConnectionKeeper } from '../../../src/member/listeners/serve-options.js'
import { untyped } from '../../fixtures/untyped.js'
import { openFds } from '../../processes/descriptors.js'
import { Scene } from '../../processes/scene.js'
import { pause, until } from '../../processes/until.js'

async function alone(): Promise<Member> {
  const member = await join({ service: 'shop', control: false })
  onTestFinished(() => member.close({ timeout: 0 }))
  return member
}

function portOf(listener: Listener): number {
  return listener.address.port!
}

async function get(port: number): Promise<string> {
  return await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()
}

function answering(): Server {
  const server = createServer((_request, response) => response.end('ok'))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return server
}

/** A server that answers each request when it is told to, and a client of it. */
async function answersWhenTold() {
  const pending: (() => void)[] = []
  const server = createServer((request, response) => {
    pending.push(() => response.end(`answer to ${request.url}`))
  })
  const served = new AttachedServer(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  return { pending, server, served, client }
}

describe('a server given to a listener', () => {
  it('of datagrams is a socket of node:dgram without an address', async () => {
    const member = await alone()
    const datagrams = await member.listen('datagrams', 'udp://127.0.0.1:0')
    const refused = (code: string, text: RegExp) =>
      expect.objectContaining({ code, message: expect.stringMatching(text) })
    expect(() => datagrams.serve(answering())).toThrow(
      refused('ERR_FDB_NOT_A_SERVER', /"datagrams".*node:dgram.*borrow\(\)/),
    )
    const bound = createSocket('udp4').bind(0, '127.0.0.1')
    await once(bound, 'listening')
    expect(() => datagrams.serve(bound)).toThrow(refused('ERR_FDB_SERVER_LISTENS', /bind\(\)/))
    bound.close()
    const socket = createSocket('udp4')
    expect(() => datagrams.serve(socket, { move: false })).toThrow(refused('ERR_FDB_OPTION', /no options/))
    datagrams.serve(socket)
    expect(() => datagrams.serve(socket)).toThrow(refused('ERR_FDB_SERVER_TWICE', /already/))
    await member.ready()
    expect([datagrams.accepting, datagrams.scheme, socket.address().port]).toEqual([
      true,
      'udp',
      datagrams.address.port,
    ])
    const closed = once(socket, 'close')
    await member.close()
    await closed
  })

  it('of datagrams reads none while it pauses, and loses none', async () => {
    const member = await alone()
    const datagrams = await member.listen('udp://127.0.0.1:0')
    const socket = createSocket('udp4')
    const heard: string[] = []
    socket.on('message', (datagram, { port }) => {
      heard.push(String(datagram))
      socket.send('', port, '127.0.0.1')
    })
    datagrams.serve(socket)
    await member.ready()
    const client = createSocket('udp4')
    onTestFinished(() => void client.close())
    client.connect(datagrams.address.port!, '127.0.0.1')
    await once(client, 'connect')
    client.send('one')
    await once(client, 'message')
    member.pause()
    await new Promise<unknown>(resolve => client.send('two', resolve))
    await new Promise(setImmediate)
    await new Promise(setImmediate)
    expect(heard).toEqual(['one'])
    const answered = once(client, 'message')
    await member.resume()
    await answered
    expect(heard).toEqual(['one', 'two'])
  })

  it('accepts again although no descriptor is free, also for an ended worker', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const ended = await member.listen('ended', 'tcp://127.0.0.1:0')
    const datagrams = await member.listen('datagrams', 'udp://127.0.0.1:0')
    web.serve(answering())
    datagrams.serve(createSocket('udp4'))
    await member.ready({ unserved: ['ended'] })
    web.standIn('of-2-1', OwnedFd.own(ended.borrow(), 'listener of an ended worker'))
    const before = openFds(process.pid).length
    for (let round = 0; round < 2; round++) {
      member.pause()
      const dup = vi.spyOn(OwnedFd.prototype, 'dup').mockImplementation(() => {
        throw Object.assign(new Error('too many open files'), { code: 'EMFILE' })
      })
      onTestFinished(() => dup.mockRestore())
      await member.resume()
      dup.mockRestore()
      expect(await Promise.all([get(portOf(web)), get(portOf(ended))])).toEqual(['ok', 'ok'])
      expect(datagrams.accepting).toBe(true)
    }
    await until('no descriptor is left', () => openFds(process.pid).length <= before)
  })

  it('leaves no client waiting in its queue when it has stopped and its process ends', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    let answer = () => {}
    const server = createServer((_request, response) => {
      answer = () => response.end('late')
    })
    web.serve(server)
    await member.ready()
    const last = get(portOf(web))
    await once(server, 'request')
    member.pause()
    const closed = member.close()
    await until('no further client comes', async () => {
      const client = connect(portOf(web), '127.0.0.1')
      const isRefused = once(client, 'connect').then(
        () => false,
        () => true,
      )
      return isRefused.finally(() => client.destroy())
    })
    answer()
    expect(await last).toBe('late')
    await closed
  })

  it('must not listen already: no process would accept on the listener', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering().listen(0, '127.0.0.1')
    await once(server, 'listening')
    expect(() => web.serve(server)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_SERVER_LISTENS', message: expect.stringContaining('web') }),
    )
    await member.ready({ unserved: true })
    expect(await get((server.address() as AddressInfo).port)).toBe('ok')
    server.close()
  })

  it('must have no other listener, nor the same twice', async () => {
    const member = await alone()
    const a = await member.listen('a', 'tcp://127.0.0.1:0')
    const b = await member.listen('b', 'tcp://127.0.0.1:0')
    const server = answering()
    a.serve(server)
    for (const listener of [a, b])
      expect(() => listener.serve(server)).toThrow(expect.objectContaining({ code: 'ERR_FDB_SERVER_TWICE' }))
    b.serve(answering())
    await member.ready()
    expect(await Promise.all([get(portOf(a)), get(portOf(b))])).toEqual(['ok', 'ok'])
  })

  it('answers a client that has just connected, and closes a silent one, when its service ends', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const server = answering()
    const served = new AttachedServer(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const arrived = async () => {
      const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
      await once(server, 'connection')
      return client
    }
    const [asks, silent] = [await arrived(), await arrived()]
    served.announce()
    served.endIdle()
    asks.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(await text(asks)).toMatch(/^HTTP\/1.1 200 OK\r\n.*ok$/s)
    expect(served.connections).toBe(1)
    vi.advanceTimersByTime(500)
    expect(await text(silent)).toBe('')
    await served.emptied()
  })

  it('stops this process from serving if it begins to listen elsewhere before the commit', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering()
    web.serve(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    await expect(member.ready()).rejects.toMatchObject({
      code: 'ERR_FDB_SERVER_LISTENS',
      message: expect.stringContaining('listener "web"'),
    })
    server.close()
  })

  it('stops this process from serving if the application closes it while it is being attached', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering()
    // Node says that it listens in the next turn.
    const listen = server.listen.bind(server) as (...args: unknown[]) => Server
    server.listen = (...args: unknown[]) => {
      process.nextTick(() => server.close())
      return listen(...args)
    }
    web.serve(server)
    await expect(member.ready()).rejects.toMatchObject({
      code: 'ERR_FDB_SERVER_CLOSED',
      message: expect.stringContaining('listener "web"'),
    })
  })

  it('shows as not accepting any more if the application closes it', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering()
    web.serve(server)
    await member.ready()
    await get(portOf(web))
    expect(member.status().listeners[0]?.accepting).toBe(true)
    server.close()
    expect(member.status().listeners[0]?.accepting).toBe(false)
  })

  it('may listen elsewhere when the application has closed it: the end of the listener does not stop that', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering()
    web.serve(server)
    await member.ready()
    server.close()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    expect(web.accepting).toBe(false)
    member.unlisten('web')
    await member.close()
    expect(await get(port)).toBe('ok')
  })

  it('beside others is asked what its connections do, told of the end, and started once however often', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const told: string[] = []
    const keeper = (name: string, kinds: Record<string, number>): ConnectionKeeper => ({
      connections: 0,
      kinds: () => kinds,
      announce: () => told.push(name),
      emptied: async () => {},
      cut: () => ({ idle: 0, busy: 0 }),
    })
    const servers = [answering(), answering()]
    web.serve(servers[0]!, { keeper: keeper('one', { idle: 2, busy: 0 }) })
    web.serve(servers[1]!, { keeper: keeper('other', { idle: 1, upgraded: 3 }) })
    await member.ready()
    await web.start()
    expect(web.kinds()).toEqual({ idle: 3, upgraded: 3 })
    expect([web.accepting, web.hasAcceptor, servers.map(({ listening }) => listening)]).toEqual([
      true,
      true,
      [true, true],
    ])
    web.announce()
    expect(told).toEqual(['one', 'other'])
    web.stop()
    expect([web.accepting, web.hasAcceptor, servers.map(({ listening }) => listening)]).toEqual([
      false,
      false,
      [false, false],
    ])
  })

  it('taken off and put back at once, many times, keeps no listener of ours and goes on', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const server = answering()
    web.serve(server)
    await member.ready()
    await get(portOf(web))
    const before = server.listenerCount('error') + server.listenerCount('listening')
    for (let i = 0; i < 20; i++) {
      web.stop()
      expect(server.listenerCount('error') + server.listenerCount('listening')).toBe(before)
      web.start()
    }
    expect(await get(portOf(web))).toBe('ok')
    expect(server.listenerCount('error') + server.listenerCount('listening')).toBe(before)
  })

  it('answers every pipelined request that it has read, when the end is announced between', async () => {
    const { pending, server, served, client } = await answersWhenTold()
    const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`
    client.write(request('/1') + request('/2'))
    await until('both are read', () => pending.length === 2)
    served.announce()
    client.write(request('/3'))
    await until('the third is read', () => pending.length === 3)
    const all = text(client)
    for (const answer of pending) answer()
    const answers = await all
    expect(answers.match(/answer to \/\d/g)).toEqual(['answer to /1', 'answer to /2', 'answer to /3'])
    expect(answers.match(/^connection: .*$/gim)?.at(-1)).toMatch(/close/i)
    served.release()
    server.close()
  })

  it('tells of the end in the answer to the second of two requests, when the first was answered before', async () => {
    const { pending, server, served, client } = await answersWhenTold()
    let heard = ''
    client.setEncoding('latin1').on('data', part => (heard += part))
    client.write('GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n')
    await until('both are read', () => pending.length === 2)
    pending[0]!()
    await until('the first is answered', () => heard.endsWith('answer to /1'))
    served.announce()
    const closed = once(client, 'close')
    pending[1]!()
    await closed
    const [first, second] = heard.split('answer to /1')
    expect(first).toMatch(/^connection: keep-alive\r$/im)
    expect(second).toMatch(/^connection: close\r$/im)
    served.release()
    server.close()
  })
})

describe('an HTTP/2 session', () => {
  it('has to go if it begins when the end was announced before', async () => {
    const server = http2.createServer()
    const served = new AttachedServer(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      served.release()
      server.close()
    })
    // Connections that were accepted in the turn of the announcement begin behind it.
    served.announce()
    const session = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    const goaway = once(session, 'goaway')
    const closed = once(session, 'close')
    expect((await goaway)[0]).toBe(http2.constants.NGHTTP2_NO_ERROR)
    await closed
    await served.emptied()
  })
})

describe('a drain whose time is over', () => {
  it('waits until what it cut is gone: the peers are told as their protocol asks', async () => {
    const member = await join({ service: 'shop', control: false })
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const steps: string[] = []
    let goodbye!: () => void
    const keeper: ConnectionKeeper = {
      get connections() {
        return goodbye === undefined ? 1 : 0
      },
      announce: () => steps.push('announced'),
      emptied: () => new Promise(resolve => (goodbye = resolve)),
      cut() {
        steps.push('cut')
        // The last frames leave in a later turn.
        setImmediate(() => {
          steps.push('gone')
          goodbye()
        })
        return { idle: 0, busy: 1 }
      },
    }
    web.serve(createServer(), { keeper })
    await member.ready()
    await member.close({ timeout: 1 })
    expect(steps).toEqual(['announced', 'cut', 'gone'])
  })
})

describe('a member', () => {
  it('binds and holds nothing more if it has left, or leaves', async () => {
    const member = await alone()
    await member.ready()
    await member.close()
    await expect(member.listen('late', 'tcp://127.0.0.1:0')).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
    await expect(member.relisten('late', 'tcp://127.0.0.1:0')).rejects.toMatchObject({
      code: 'ERR_FDB_CLOSED',
    })
    await expect(member.hold('late', 1)).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
    expect(member.status().listeners).toEqual([])
  })

  it('starts no successor when it has left, or was never ready', async () => {
    const left = {
      code: 'ERR_FDB_CLOSED',
      message: expect.stringContaining('has left the service'),
      retryable: false,
    }
    const member = await join({ service: 'shop', control: Scene.open().control })
    await expect(member.ready({ checks: [() => false] })).rejects.toMatchObject({ code: 'ERR_FDB_CHECK' })
    await expect(member.upgrade()).rejects.toMatchObject(left)
    const other = await join({ service: 'shop', control: Scene.open().control })
    await other.ready()
    await other.close()
    await expect(other.upgrade()).rejects.toMatchObject(left)
  })

  it('holds open descriptors only', async () => {
    const member = await alone()
    const closed = OwnedFd.own(openSync('/dev/null', 'r'), 'null')
    closed.close()
    for (const fd of [9_999, -1, 0.5, 'x', null, undefined, {}, closed])
      await expect(member.hold('null', untyped(fd))).rejects.toMatchObject({
        code: 'ERR_FDB_OPTION',
        message: expect.stringContaining('give the number of an open descriptor, or an OwnedFd'),
      })
    expect(member.held('null')).toBeUndefined()
    await member.ready()
  })

  it('refuses names that would not fit in the message that carries them', async () => {
    const member = await alone()
    for (const name of ['', 'x'.repeat(257)]) {
      await expect(member.listen(name, 'tcp://127.0.0.1:0')).rejects.toMatchObject({ code: 'ERR_FDB_OPTION' })
      await expect(member.hold(name, 1)).rejects.toMatchObject({ code: 'ERR_FDB_OPTION' })
    }
    await member.listen('x'.repeat(256), 'tcp://127.0.0.1:0')
  })

  it('says once that it is ready', async () => {
    const member = await alone()
    await member.ready()
    await expect(member.ready()).rejects.toMatchObject({ code: 'ERR_FDB_READY_TWICE' })
  })

  it('asked for one listener twice at the same time gives it once', async () => {
    const member = await alone()
    const both = await Promise.allSettled([
      member.listen('web', 'tcp://127.0.0.1:0'),
      member.listen('web', 'tcp://127.0.0.1:0'),
    ])
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect(both[1]).toMatchObject({ reason: { code: 'ERR_FDB_LISTENER_TWICE' } })
    await member.ready({ unserved: true })
    member.unlisten('web')
    await member.listen('web', 'tcp://127.0.0.1:0')
  })

  it('keeps no listener of another worker that it gets when it has left', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    web.serve(answering())
    await member.ready()
    await member.close()
    const late = OwnedFd.own(openSync('/dev/null', 'r'), 'listener of a dead worker')
    web.standIn('of-2-1', late)
    expect(late.closed).toBe(true)
  })

  it('opens a listener whose address was in use as soon as that is free, under the same name', async () => {
    const member = await alone()
    const other = answering()
    other.listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    const web = () => member.listen('web', `tcp://127.0.0.1:${port}`)
    for (let again = 0; again < 2; again++)
      await expect(web()).rejects.toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE' })
    other.close()
    await once(other, 'close')
    expect(portOf(await web())).toBe(port)
  })

  it('waits at its end for the last answer of a listener that it had let go of', async () => {
    const member = await alone()
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    let answer: (() => void) | undefined
    const server = createServer((_request, response) => {
      answer = () => response.end('late')
    })
    web.serve(server)
    await member.ready()
    const answered = get(portOf(web))
    await until('it is asked', () => answer !== undefined)
    member.unlisten('web')
    let closed = false
    const closing = member.close({ timeout: 10_000 }).then(() => {
      closed = true
    })
    await pause(50)
    expect(closed).toBe(false)
    answer?.()
    expect(await answered).toBe('late')
    await closing
  })

  it('refuses limits that a timer cannot wait for: Node would take them for one millisecond', async () => {
    const member = await alone()
    for (const timeout of [Number.POSITIVE_INFINITY, Number.NaN, -1, 2 ** 31]) {
      const refused = { code: 'ERR_FDB_OPTION', message: expect.stringContaining('timeout') }
      await expect(member.ready({ timeout })).rejects.toMatchObject(refused)
      await expect(member.close({ timeout })).rejects.toMatchObject(refused)
      await expect(member.upgrade({ timeout })).rejects.toMatchObject(refused)
    }
    expect(member.phase).toBe('joining')
    await member.ready()
  })
})
