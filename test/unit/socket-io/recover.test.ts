import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import type net from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { type JoinOptions, join } from 'fd-broker'
import { recoverSockets } from 'fd-broker/socket.io'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { until } from '../../processes/until.js'

function attached(): Server {
  const server = new Server(http.createServer())
  onTestFinished(() => void server.close())
  return server
}

describe('recoverSockets()', () => {
  it('refuses what is no server of socket.io', () => {
    // @ts-expect-error: no server
    expect(() => recoverSockets({})).toThrow('is no server of socket.io')
    // @ts-expect-error: no server
    expect(() => recoverSockets(null)).toThrow('is no server of socket.io')
  })

  it('refuses a server that is not attached, and a name that is taken', () => {
    expect(() => recoverSockets(new Server())).toThrow('before the server of socket.io was attached')
    recoverSockets(attached(), { name: 'one' })
    expect(() => recoverSockets(attached(), { name: 'one' })).toThrow('give each the option "name"')
    recoverSockets(attached(), { name: 'two' })
  })

  it('takes another server of the same name when the first one has closed', async () => {
    const first = attached()
    recoverSockets(first, { name: 'three' })
    await first.close()
    const next = attached()
    recoverSockets(next, { name: 'three' })
    expect(() => recoverSockets(attached(), { name: 'three' })).toThrow('give each the option "name"')
  })

  it('says what another release lacks, also if join() is called later', async () => {
    const server = attached()
    Object.assign(server.engine, { handshake: undefined })
    recoverSockets(server, { name: 'four' })
    await new Promise(resolve => setImmediate(resolve))
    const warnings: string[] = []
    const warn = (_facts: object, message: string) => void warnings.push(message)
    const logger = { debug() {}, info() {}, warn, error() {} }
    const member = await join({ service: 'lacking', control: false, logger })
    await member.close()
    expect(warnings).toEqual(['sessions of socket.io do not move'])
  })

  it('keeps broadcasts for the last sessions of a process that has none left: they may be on their way', async () => {
    const server = attached()
    recoverSockets(server, { name: 'five' })
    const logger = { debug() {}, info() {}, warn() {}, error() {} }
    const member = await join({ service: 'leaving', control: false, logger })
    onTestFinished(() => member.close())
    await member.ready()
    const turn = () => new Promise(resolve => setImmediate(resolve))
    const section = member.section('socket.io five')
    await turn()
    // No other process has sessions.
    server.emit('tick', 1)
    expect(section.has('m')).toBe(false)
    await section.put('p/another', new Uint8Array())
    await turn()
    await section.delete('p/another')
    await turn()
    server.emit('tick', 2)
    await turn()
    expect(section.has('m')).toBe(true)
  })

  it('forgets a silent process only when what has arrived is read', async () => {
    const server = attached()
    recoverSockets(server, { name: 'six' })
    const member = await join({ service: 'silent', control: false })
    onTestFinished(() => member.close())
    await member.ready()
    const turn = () => new Promise(resolve => setImmediate(resolve))
    const section = member.section('socket.io six')
    await section.put('p/another', new Uint8Array())
    await turn()
    const now = performance.now.bind(performance)
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 11_000)
    onTestFinished(() => clock.mockRestore())
    // As in the first turn after a SIGSTOP.
    server.emit('tick', 1)
    await turn()
    expect(section.has('m')).toBe(true)
    await until('it is forgotten', () => !section.has('p/another'))
    await section.delete('m')
    server.emit('tick', 2)
    await turn()
    expect(section.has('m')).toBe(false)
  })

  it('knows no session any more that the next version has taken, which is gone', async () => {
    const server = attached()
    recoverSockets(server, { name: 'taken' })
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-sessions-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const control = joinPath(folder, 'control.sock')
    const joined = async () => {
      const member = await join({ service: 'taken', control, upgrade: { probation: 60_000 } })
      onTestFinished(() => member.close({ timeout: 0 }))
      return member
    }
    const first = await joined()
    await first.ready()
    const listening = server.httpServer as http.Server
    await new Promise<void>(resolve => listening.listen(0, '127.0.0.1', resolve))
    const { port } = listening.address() as net.AddressInfo
    const clients = [1, 2].map(() =>
      io(`http://127.0.0.1:${port}`, { transports: ['polling'], forceNew: true }),
    )
    onTestFinished(() => clients.forEach(client => void client.disconnect()))
    await until('they are connected', () => clients.every(({ connected }) => connected))
    const next = await joined()
    const section = next.section('socket.io taken')
    await next.ready()
    const given = () => [...section.keys()].filter(key => key.startsWith('s/'))
    await until('the sessions are given', () => given().length === clients.length)
    const [taken, waits] = given().map(key => key.slice(2))
    await section.delete(`s/${taken}`)
    await next.close({ timeout: 0 })
    await until('it has the session that no process took', () => server.engine.clientsCount === 1)
    expect(Object.keys(Reflect.get(server.engine, 'clients'))).toEqual([waits])
  })

  it('gives a session up whose namespace the application does not answer for', async () => {
    const server = attached()
    server.of((_name, _auth, _next) => {})
    recoverSockets(server, { name: 'seven' })
    const warnings: unknown[] = []
    const warn = (facts: object) => void warnings.push(String(Reflect.get(facts, 'err')))
    const logger = { debug() {}, info() {}, warn, error() {} }
    const member = await join({ service: 'silent', control: false, logger })
    onTestFinished(() => member.close())
    await member.ready()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const section = member.section('socket.io seven')
    const socket = { namespace: '/rooms', id: 'a', rooms: [], data: {}, handshake: {} }
    // The section has the schema of recoverSockets().
    await section.put('s/one', JSON.parse(JSON.stringify({ id: 'one', sockets: [socket] })))
    const turn = () => new Promise(resolve => setImmediate(resolve))
    await turn()
    vi.advanceTimersByTime(14_900)
    await turn()
    expect(section.has('s/one')).toBe(true)
    vi.advanceTimersByTime(200)
    vi.useRealTimers()
    await until('it is given up', () => !section.has('s/one'))
    expect(warnings.filter(text => String(text).includes('has not told in time'))).toHaveLength(1)
  })

  it('remembers the first requests of the last unknown sessions only, and none of a name that no session has', async () => {
    const server = attached()
    recoverSockets(server, { name: 'eight' })
    const logger = { debug() {}, info() {}, warn() {}, error() {} }
    const member = await join({ service: 'asked', control: false, logger })
    onTestFinished(() => member.close())
    await member.ready()
    const turn = () => new Promise(resolve => setImmediate(resolve))
    const section = member.section('socket.io eight')
    await section.put('p/another', JSON.parse('{ "present": true }'))
    // A session that cannot be opened is given up.
    await section.put('s/lost', JSON.parse('{ "id": "lost" }'))
    await turn()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const waits = (sid: string) => {
      let refused = false
      const request = {
        _query: { transport: 'polling', EIO: '4', sid },
        method: 'POST',
        headers: {},
        socket: {},
      }
      Reflect.apply(Reflect.get(server.engine, 'verify'), server.engine, [
        request,
        false,
        () => (refused = true),
      ])
      return !refused
    }
    expect([waits('lost'), waits('x'.repeat(2_000)), waits('new')]).toEqual([false, false, true])
    for (let n = 0; n < 10_000; n++) waits(`${n}`)
    // The session that is forgotten is waited for again.
    expect(waits('lost')).toBe(true)
  })

  /** A client that polls, of a server that listens. */
  async function polled(name: string, options: Partial<JoinOptions> = {}) {
    const web = http.createServer()
    const server = new Server(web)
    onTestFinished(() => void server.close())
    recoverSockets(server, { name })
    const warnings: string[] = []
    const warn = (_facts: object, message: string) => void warnings.push(message)
    const logger = { debug() {}, info() {}, warn, error() {} }
    const member = await join({ service: name, control: false, logger, ...options })
    onTestFinished(() => member.close({ timeout: 0 }))
    await member.ready()
    await new Promise<void>(resolve => web.listen(0, '127.0.0.1', resolve))
    const { port } = web.address() as net.AddressInfo
    const client = io(`http://127.0.0.1:${port}`, { transports: ['polling'], reconnection: false })
    onTestFinished(() => void client.disconnect())
    await until('it is connected', () => client.connected)
    const session = String(client.io.engine.id)
    return { server, member, client, session, warnings }
  }

  it('gives a session that the state cannot take up once, and its sockets go on', async () => {
    const { server, member, warnings } = await polled('nine', { stateLimits: { recordBytes: 8_192 } })
    let ends = 0
    for (const socket of server.sockets.sockets.values()) {
      socket.data = 'x'.repeat(10_000)
      socket.on('disconnect', () => ends++)
    }
    server.on('connection', socket => socket.on('disconnect', () => ends++))
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    member.emit('retiring')
    const turn = () => new Promise(resolve => setImmediate(resolve))
    for (let n = 0; n < 20; n++) {
      vi.advanceTimersByTime(10)
      await turn()
    }
    expect(warnings).toEqual(['a session of socket.io could not be given to the next version'])
    expect([ends, server.sockets.sockets.size]).toEqual([1, 1])
  })

  it('ends a session whose client has told another process so', async () => {
    const { server, member, session } = await polled('ten')
    const reasons: string[] = []
    for (const socket of server.sockets.sockets.values())
      socket.on('disconnect', reason => reasons.push(reason))
    const message = { kind: 'in', session, payload: '1' }
    await member
      .section('socket.io ten')
      .put('m', JSON.parse(JSON.stringify({ origin: 'x', number: 1, message })))
    await until('it has ended', () => reasons.length === 1)
    expect(reasons).toEqual(['transport close'])
  })

  it('gives a session that comes later what was broadcast, not what the application has made of it since', async () => {
    const { server, member } = await polled('eleven')
    const section = member.section('socket.io eleven')
    await section.put('p/another', JSON.parse('{ "present": true }'))
    const turn = () => new Promise(resolve => setImmediate(resolve))
    await turn()
    const counter = { value: 1 }
    server.emit('tick', counter)
    counter.value = 2
    server.emit('tick', counter)
    await turn()
    const socket = { namespace: '/', id: 'a', rooms: [], data: {}, handshake: {} }
    const request = {
      url: '/socket.io/?EIO=4&transport=polling',
      httpVersion: '1.1',
      rawHeaders: [],
      address: '',
    }
    const session = { id: 'one', protocol: 4, upgraded: false, request, written: [], pingInMs: 1_000 }
    await section.put('s/one', JSON.parse(JSON.stringify({ ...session, sockets: [socket] })))
    const later = await until('it is here', () => Reflect.get(server.engine, 'clients').one)
    const written: { data: string }[] = later.writeBuffer
    expect(written.map(({ data }) => data)).toEqual(['2["tick",{"value":1}]', '2["tick",{"value":2}]'])
  })

  it('gives other processes broadcasts of whatever socket.io sends, also of what the state cannot store', async () => {
    const { server, member, warnings } = await polled('twelve')
    const section = member.section('socket.io twelve')
    await section.put('p/another', JSON.parse('{ "present": true }'))
    const turn = () => new Promise(resolve => setImmediate(resolve))
    await turn()
    class Player {
      readonly name = 'a'
      readonly password = undefined
      readonly play = () => {}
      readonly at = { toJSON: () => [1, undefined, Number.NaN] }
    }
    const bytes = new Float32Array([1])
    const date = new Date(0)
    server.emit('tick', new Player(), bytes, bytes.buffer, new Set([1]), [date, undefined], 'cut \ud83d')
    await turn()
    expect(warnings).toEqual([])
    const told: { message: { packet: { data: unknown[] } } } = JSON.parse(JSON.stringify(section.get('m')))
    const inJson = JSON.parse(JSON.stringify(Buffer.from(bytes.buffer)))
    expect(told.message.packet.data).toEqual([
      'tick',
      { name: 'a', at: [1, null, null] },
      inJson,
      inJson,
      {},
      ['1970-01-01T00:00:00.000Z', null],
      'cut \ufffd',
    ])
  })

  it('gives sessions on with all that the application has added to a handshake, and with bytes of any kind', async () => {
    const { server, member, session, warnings } = await polled('thirteen')
    const section = member.section('socket.io thirteen')
    const [socket] = server.sockets.sockets.values()
    Object.assign(socket!.handshake, { session: { user: 'a', save() {} }, auth: { name: 'cut \ud83d' } })
    const bytes = new Float32Array([1])
    const conn = Reflect.get(server.engine, 'clients')[session]
    // As it is between two polls.
    conn.writeBuffer.push({ type: 'message', data: bytes, options: {} })
    member.emit('retiring')
    const given = await until('it is given', () => section.get(`s/${session}`))
    const { sockets, written } = JSON.parse(JSON.stringify(given))
    const inJson = JSON.parse(JSON.stringify(Buffer.from(bytes.buffer)))
    expect(sockets[0].handshake).toMatchObject({ session: { user: 'a' }, auth: { name: 'cut \ufffd' } })
    expect(written.map(({ data }: { data: unknown }) => data)).toEqual([inJson])
    socket!.emit('late', bytes.buffer)
    const out = await until('it is told', () => section.get('m'))
    expect(JSON.parse(JSON.stringify(out)).message.packets.at(-1)).toEqual(inJson)
    expect(warnings).toEqual([])
  })
})
