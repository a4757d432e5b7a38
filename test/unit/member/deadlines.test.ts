import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Logger } from '../../../src/base/logger.js'
import { codec, defineSection, join, type Member, serveDaemon } from '../../../src/index.js'
import { warnUnlessReady } from '../../../src/member/lifecycle/readiness.js'
import type { JoinOptions } from '../../../src/member/options/options.js'
import { untyped } from '../../fixtures/untyped.js'
import { NIGHTLY } from '../../lanes/lane.js'
import { openFds } from '../../processes/descriptors.js'
import { OwnTimers } from '../../processes/own-timers.js'
import { until } from '../../processes/until.js'

const never = () => new Promise<never>(() => {})

/** Lets this process read nothing for this time, as a stop (SIGSTOP) does. */
function busy(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

async function connected(): Promise<[Socket, Socket]> {
  const server = createTcpServer().listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [peer] = (await once(server, 'connection')) as [Socket]
  onTestFinished(() => {
    socket.destroy()
    peer.destroy()
  })
  return [socket, peer]
}

/** Joins one service, again and again. */
function service(common: Partial<JoinOptions> = {}): (options?: Partial<JoinOptions>) => Promise<Member> {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-deadlines-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return async options => {
    const member = await join({
      service: 'shop',
      control: joinPath(folder, 'control.sock'),
      ...common,
      ...options,
    })
    onTestFinished(() => member.close({ timeout: 0 }))
    return member
  }
}

function openSockets(): number {
  return openFds(process.pid).filter(what => what === 'socket').length
}

function warnings(): { logger: Logger; told: { facts: object; text: string }[] } {
  const told: { facts: object; text: string }[] = []
  const logger = {
    debug() {},
    info() {},
    error() {},
    warn: (facts: object, text: string) => told.push({ facts, text }),
  }
  return { logger, told }
}

describe('join()', () => {
  it('behind a process that never gets ready gives up at its timeout, and says whom it waited for', async () => {
    const begin = service()
    const first = await begin()
    const before = openSockets()
    await expect(begin({ timeout: 300 })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      retryable: true,
      message: expect.stringMatching(new RegExp(`process ${process.pid} .*300 ms.*ready\\(\\)`)),
    })
    await until('the first has heard that it left', () => openSockets() === before)
    await first.ready()
    await (await begin()).ready()
  })
})

describe('ready()', () => {
  it('waits for a check no longer than its timeout, and the incumbent serves on', async () => {
    const begin = service()
    const first = await begin()
    await first.ready()
    const second = await begin()
    let signal: AbortSignal | undefined
    const stuck = function database(context: { signal: AbortSignal }) {
      signal = context.signal
      return never()
    }
    await expect(second.ready({ timeout: 200, checks: [stuck] })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      message: expect.stringMatching(/check "database" .* 200 ms/),
    })
    expect(signal?.aborted).toBe(true)
    expect(await second.retired).toBe('lost')
    await until('the first knows', () => first.status().lastFailure?.code === 'ERR_FDB_DEADLINE')
    expect(first.phase).toBe('serving')
    await (await begin()).ready({ timeout: 5_000, checks: [() => true] })
  })

  it('has an answer to a check count that arrived in time, also if this process was busy longer', async () => {
    const [socket, peer] = await connected()
    const member = await join({ service: 'shop', control: false })
    onTestFinished(() => member.close({ timeout: 0 }))
    const check = async () => {
      const answered = once(socket, 'data')
      setImmediate(() => {
        peer.write('yes')
        busy(300)
      })
      await answered
      return true
    }
    await member.ready({ timeout: 200, checks: [check] })
  })

  it('of a first process too', async () => {
    const member = await join({ service: 'shop', control: false })
    await expect(member.ready({ timeout: 100, checks: [never] })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
    })
    expect(member.phase).toBe('joining')
    await member.retired
  })

  it('ends with the incumbent’s Abort, also in a check that never settles', async () => {
    const begin = service()
    const first = await begin({ upgrade: { ready: 300 } })
    await first.ready()
    const second = await begin()
    await expect(second.ready({ checks: [never] })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      message: expect.stringContaining('offering'),
    })
    expect(second.phase).toBe('gone')
    await (await begin()).ready()
  })
})

describe('the limit of a phase', () => {
  it('ends with the phase, also when the same process comes to it again', async () => {
    using timers = new OwnTimers()
    const limits = () => timers.places.filter(place => place.startsWith('member/driver.ts'))
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-deadlines-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const control = joinPath(folder, 'control.sock')
    const upgrade = { freeze: 100_000 }
    const daemon = await serveDaemon({ control, upgrade })
    onTestFinished(() => daemon.close())
    const begin = service({ control, hosting: 'daemon', upgrade })
    const first = await begin()
    await first.ready()
    for (let count = 0; count < 3; count++) {
      const next = await begin()
      await next.ready()
      await until('the first stands by', () => first.phase === 'standby')
      await until(
        'no limit is left',
        () => limits().length === 0,
        5_000,
        () => timers.places,
      )
      await next.close()
      await until('the first serves again', () => first.phase === 'serving')
    }
  })
})

describe('a process that does not come to ready()', () => {
  it('causes one warning, with the remedy and the process that serves meanwhile', async () => {
    const { logger, told } = warnings()
    warnUnlessReady(logger, () => ({ check: null, incumbent: 4711 }), 20)
    await until('it warns', () => told.length > 0)
    expect(told[0]!.text).toMatch(/ready\(\) was not called: process 4711 serves.*await no change/)
  })

  it('causes a warning with the check that has not settled', async () => {
    const { logger, told } = warnings()
    warnUnlessReady(logger, () => ({ check: 'check "database"', incumbent: null }), 20)
    await until('it warns', () => told.length > 0)
    expect(told[0]!.text).toMatch(/check "database" has not settled: it accepts nothing/)
  })

  it.runIf(NIGHTLY)('causes a warning after 10 s by default', async () => {
    const { logger, told } = warnings()
    const begin = service()
    const begun = performance.now()
    await begin({ logger })
    await until('it warns', () => told.length > 0, 15_000)
    expect(performance.now() - begun).toBeGreaterThan(9_900)
    expect(told).toMatchObject([{ facts: { afterMs: 10_000, incumbent: null, check: null } }])
  })
})

describe('close() of the last process', () => {
  it('ends idle connections at once, and answers what is under way', async () => {
    const member = await join({ service: 'shop', control: false })
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const pending: ServerResponse[] = []
    const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      if (request.url === '/slow') pending.push(response)
      else response.end('ok')
    })
    web.serve(server)
    await member.ready()
    const open = async (path?: string): Promise<{ socket: Socket; all: Promise<string> }> => {
      const socket = connect(web.address.port!, '127.0.0.1')
      onTestFinished(() => void socket.destroy())
      await once(socket, 'connect')
      const first = path === '/' ? once(socket, 'data') : null
      if (path) socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
      await first
      return { socket, all: text(socket) }
    }
    const [used, fresh, busy] = [await open('/'), await open(), await open('/slow')]
    await until('it is being answered', () => pending.length === 1 && web.connections === 3)
    const closed = member.close({ timeout: 20_000 })
    await Promise.all([used.all, fresh.all])
    expect(pending[0]!.writableEnded).toBe(false)
    expect(busy.socket.closed).toBe(false)
    pending[0]!.end('slow but sure')
    expect(await busy.all).toMatch(/connection: close[\s\S]*slow but sure$/i)
    await closed
  })

  it('answers a request that arrives in time on a new connection, also if this process is busy longer', async () => {
    const member = await join({ service: 'shop', control: false })
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    web.serve(createServer((_request, response) => response.end('ok')))
    await member.ready()
    const socket = connect(web.address.port!, '127.0.0.1')
    onTestFinished(() => void socket.destroy())
    await until('it is accepted', () => web.connections === 1)
    using timers = new OwnTimers()
    const limited = () => timers.places.some(place => place.startsWith('member/listeners/attached-server.ts'))
    const closed = member.close({ timeout: 20_000 })
    const all = text(socket)
    await until('it waits for the first requests', limited)
    setImmediate(() => {
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
      busy(700)
    })
    expect(await all).toMatch(/ok$/)
    await closed
  })

  it('answers a request that arrives while the last answers are given', async () => {
    const member = await join({ service: 'shop', control: false })
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    const open = async () => {
      const socket = connect(web.address.port!, '127.0.0.1')
      onTestFinished(() => void socket.destroy())
      await once(socket, 'connect')
      return socket
    }
    const ask = (socket: Socket, path: string) => socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    let other: Socket
    const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      // The kernel has this request when close() looks for idle connections, and the event loop has not read it.
      if (request.url === '/last') ask(other, '/later')
      response.end('ok')
    })
    web.serve(server)
    await member.ready()
    const one = await open()
    other = await open()
    for (const socket of [one, other]) {
      const answered = once(socket, 'data')
      ask(socket, '/')
      await answered
    }
    const answers = text(other)
    ask(one, '/last')
    await member.close({ timeout: 20_000 })
    expect(await answers).toMatch(/connection: close[\s\S]*ok$/i)
  })

  it('leaves where its control path cannot be removed, and says so', async () => {
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-deadlines-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const run = joinPath(folder, 'run')
    mkdirSync(run, { mode: 0o700 })
    const { logger, told } = warnings()
    const control = joinPath(run, 'control.sock')
    const member = await join({ service: 'shop', control, logger })
    await member.ready()
    // No user can look into it, root neither.
    renameSync(run, joinPath(folder, 'moved'))
    symlinkSync(run, run)
    await member.close()
    expect(member.phase).toBe('gone')
    expect(told).toMatchObject([{ facts: { err: { code: 'ERR_FDB_CONTROL_PATH' }, control } }])
  })
})

describe('close() of both processes of a probation at the same time', () => {
  it('removes the control socket and the Unix listener, because the last one to close is the last of the service', async () => {
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-deadlines-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const control = joinPath(folder, 'control.sock')
    const begin = async () => {
      const member = await join({ service: 'shop', control, upgrade: { probation: 60_000 } })
      onTestFinished(() => member.close({ timeout: 0 }))
      const web = await member.listen(`unix:${joinPath(folder, 'web.sock')}`)
      web.serve(createServer())
      await member.ready()
      return member
    }
    const first = await begin()
    const second = await begin()
    await until('the first stands by', () => first.phase === 'standby')
    expect(second.phase).toBe('serving')
    await Promise.all([first.close(), second.close()])
    // The events outlive the service: fd-broker history reads them.
    const left = () => readdirSync(folder).toSorted()
    await until(
      'the sockets are gone',
      () => left().every(name => !name.endsWith('.sock')),
      undefined,
      () => left().join(' '),
    )
    expect(left()).toEqual(['control.sock.events', 'control.sock.lock'])
  })
})

describe('a change that is awaited before ready()', () => {
  const refusal = (work: Promise<unknown>) =>
    work.then(
      () => expect.fail('it was made'),
      (error: Error & { code: string }) => error,
    )

  const successor = async () => {
    const start = service()
    await (await start()).ready()
    return await start()
  }

  it('says so at once in a successor, and is made when that serves', async () => {
    const start = service()
    const first = await start()
    const schema = defineSection({ version: 1, codec: codec.json() })
    await first.section('users', schema).put('all', 1)
    await first.ready()
    const member = await start()
    const section = member.section('users', schema)
    const changes = {
      put: section.put('a', 1),
      update: section.update('all', value => (value as number) + 1),
      several: member.update(state => state.put(section, 'b', 2)),
    }
    for (const change of Object.values(changes)) {
      const error = await refusal(change)
      expect(error.code).toBe('ERR_FDB_NOT_READY')
      expect(error.message).toContain('call ready() first, and await the change after it')
    }
    expect((await refusal(Promise.all(Object.values(changes)))).message).toContain('call ready() first')
    await member.ready()
    await changes.put
    expect(await changes.update).toBe(2)
    await changes.several
    expect([section.get('a'), section.get('b')]).toEqual([1, 2])
  })

  it('starts at once in the first process of a service, a large one too', async () => {
    const member = await service()()
    const section = member.section('users', defineSection({ version: 1, codec: codec.json() }))
    await section.put('a', 1)
    await section.bulk(Array.from({ length: 50_000 }, (_, i) => ({ key: `${i}`, value: i })))
    expect(section.size).toBe(50_001)
  })

  it('stays in a check of ready(), as in a request that the check makes, and succeeds when this version serves', async () => {
    const start = service()
    const schema = defineSection({ version: 1, codec: codec.json<number>() })
    const first = await start()
    await first.section('visits', schema).put('all', 1)
    await first.section('visits', schema).put('old', 1)
    await first.ready()
    const second = await start()
    const visits = second.section('visits', schema)
    const results: unknown[] = []
    const handler = async () => {
      results.push(await visits.update('all', (value = 0) => value + 1))
      await visits.put('new', 1)
      results.push(await visits.delete('old'))
      results.push(await second.update(state => state.get(visits, 'all')))
      await visits.settled()
      results.push(visits.waiting, visits.get('all'))
    }
    await second.ready({ checks: [handler] })
    expect(results).toEqual([2, true, 1, 4, 1])
    await visits.settled()
    expect([visits.get('all'), visits.get('new'), visits.has('old')]).toEqual([2, 1, false])
  })

  it('ends with a version whose check fails, and the service goes on', async () => {
    const start = service()
    const schema = defineSection({ version: 1, codec: codec.json<number>() })
    const first = await start()
    await first.ready()
    const second = await start()
    const visits = second.section('visits', schema)
    const fails = async () => {
      await visits.put('new', 1)
      await refusal(visits.put(untyped(5), 1))
      return false
    }
    expect((await refusal(second.ready({ checks: [fails] }))).message).toBe('check "fails" returned false')
    expect(first.phase).toBe('serving')
    expect(first.section('visits', schema).has('new')).toBe(false)
  })

  it('tells what is wrong with the change itself, where something is', async () => {
    const member = await successor()
    const section = member.section('users', defineSection({ version: 1, codec: codec.json() }))
    expect((await refusal(section.put(untyped(5), 1))).code).toBe('ERR_FDB_STATE_KEY')
    expect((await refusal(section.put('a', 1, { durable: true }))).code).toBe('ERR_FDB_OPTION')
  })

  it('may be awaited when ready() is called in the same turn', async () => {
    const member = await successor()
    const section = member.section('users', defineSection({ version: 1, codec: codec.json() }))
    await Promise.all([section.put('a', 1), member.ready()])
    expect(section.get('a')).toBe(1)
  })

  it('starts in the same way by catch() and finally(), and not by a call alone', async () => {
    const member = await successor()
    const section = member.section('users', defineSection({ version: 1, codec: codec.json() }))
    const codes: string[] = []
    await section.put('a', 1).catch((error: { code: string }) => codes.push(error.code))
    await section
      .put('b', 2)
      .finally(() => codes.push('finally'))
      .catch(() => {})
    void section.put('c', 3)
    expect(codes).toEqual(['ERR_FDB_NOT_READY', 'finally'])
    await member.ready()
    await section.put('d', 4)
    expect([...section.keys()].toSorted()).toEqual(['a', 'b', 'c', 'd'])
  })
})
