import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { codec, defineSection, join, type Member } from '../../../src/index.js'
import type { JoinOptions } from '../../../src/member/options/options.js'
import { OperatorClient } from '../../../src/operator.js'
import { until } from '../../processes/until.js'

const TIMES = { probation: 60_000, heartbeat: 20, silence: 200 }

/** The logger: a message, and its facts. */
type Tell = (message: string, facts: { readonly [fact: string]: unknown }) => void

class Service {
  readonly control: string
  port = 0
  constructor() {
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-fit-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    this.control = joinPath(folder, 'control.sock')
  }

  async join(options: Partial<JoinOptions> = {}, tell: Tell = () => {}): Promise<Member> {
    const log = (facts: object, message: string) => tell(message, facts as { [fact: string]: unknown })
    const logger = { debug: log, info: log, warn: log, error: log }
    const { control } = this
    const member = await join({
      service: 'shop',
      control,
      upgrade: TIMES,
      drain: { timeout: 0 },
      logger,
      ...options,
    })
    onTestFinished(() => member.close({ timeout: 0 }))
    return member
  }

  /** Listens, with a server that answers with this text; not ready yet. */
  async serve(member: Member, text: string): Promise<Server> {
    const web = await member.listen('web', 'tcp://127.0.0.1:0')
    this.port = web.address.port!
    const server = createServer((_request, response) => response.end(text))
    onTestFinished(() => {
      server.close()
      server.closeAllConnections()
    })
    web.serve(server)
    return server
  }

  async ask(): Promise<string> {
    const response = await fetch(`http://127.0.0.1:${this.port}/`, { headers: { connection: 'close' } })
    return await response.text()
  }
}

async function serving(): Promise<{ service: Service; old: Member }> {
  const service = new Service()
  const old = await service.join()
  await service.serve(old, 'old')
  await old.ready()
  return { service, old }
}

const LISTENS = { code: 'ERR_FDB_SERVER_LISTENS', message: expect.stringContaining('listener "web"') }

describe('a next version whose server cannot be attached to its listener', () => {
  it('does not serve: ready() rejects before the handoff', async () => {
    const { service, old } = await serving()
    const next = await service.join()
    const server = await service.serve(next, 'new')
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    await expect(next.ready()).rejects.toMatchObject(LISTENS)
    await until('the old one is idle', () => old.status().phase === 'idle')
    expect(await service.ask()).toBe('old')
    expect(old.status().lastFailure).toMatchObject({ code: 'ERR_FDB_SERVER_LISTENS', phase: 'offering' })
  })

  it('when the commit comes does not serve either, and the old one goes on', async () => {
    const { service, old } = await serving()
    let server: Server | undefined
    const next = await service.join({}, (message, { phase }) => {
      // The member has been looked at, and the commit is on its way.
      if (message === 'member phase' && phase === 'ready') server?.listen(0, '127.0.0.1')
    })
    server = await service.serve(next, 'new')
    const notes = next.section('notes')
    const waiting = notes.put('from', Buffer.from('the new one'))
    await expect(next.ready()).rejects.toMatchObject(LISTENS)
    await until('the old one is idle', () => old.status().phase === 'idle')
    expect((server.address() as AddressInfo).port).not.toBe(service.port)
    expect(await service.ask()).toBe('old')
    // Forwarded when the next version left.
    await waiting
    expect(String(old.section('notes').get('from'))).toBe('the new one')
    await old.section('notes').put('from', Buffer.from('the old one'))
    const third = await service.join()
    await service.serve(third, 'third')
    await third.ready()
    await until('the third serves alone', () => old.phase === 'standby')
    expect(await service.ask()).toBe('third')
    expect(String(third.section('notes').get('from'))).toBe('the old one')
  })

  it('answers the clients that it has accepted, and only then rejects ready()', async () => {
    const { service, old } = await serving()
    let other: Server | undefined
    let open = 0
    const answers: Promise<string>[] = []
    const next = await service.join({ drain: { timeout: 10_000 } }, (message, { phase }) => {
      if (message !== 'member phase') return
      // The first listener accepts; then the second cannot, so the commit is undone.
      if (phase === 'ready') other?.listen(0, '127.0.0.1')
      if (phase === 'beginning') answers.push(...Array.from({ length: 20 }, () => service.ask()))
    })
    const server = await service.serve(next, 'unused')
    server.removeAllListeners('request').on('request', (_request, response) => {
      open++
      setTimeout(() => {
        open--
        response.end('new')
      }, 300)
    })
    const second = await next.listen('zweb', 'tcp://127.0.0.1:0')
    other = createServer()
    onTestFinished(() => void other?.close())
    second.serve(other)
    const rejected = await next.ready().then(
      () => null,
      (error: unknown) => ({ error, open }),
    )
    expect(rejected).toEqual({ error: expect.objectContaining({ code: LISTENS.code }), open: 0 })
    const by = await Promise.all(answers)
    expect(by.filter(text => text === 'new').length).toBeGreaterThan(0)
    expect(by.filter(text => text !== 'new' && text !== 'old')).toEqual([])
    expect(await service.ask()).toBe('old')
    expect(old.phase).toBe('serving')
  })

  it('fails when its application closes its server in probation: the old one serves again', async () => {
    const { service, old } = await serving()
    const next = await service.join()
    const server = await service.serve(next, 'new')
    await next.ready()
    await until('the old one stands by', () => old.phase === 'standby')
    server.close()
    await until('the old one serves', () => old.phase === 'serving')
    expect(await service.ask()).toBe('old')
    expect(old.status().lastFailure).toMatchObject({ code: 'ERR_FDB_UNHEALTHY', phase: 'probation' })
  })
})

describe('a health hook', () => {
  it('counts as unwell if it throws', async () => {
    const { service, old } = await serving()
    let throws = false
    const next = await service.join({
      health: () => {
        if (throws) throw new Error('of the hook')
        return true
      },
    })
    await service.serve(next, 'new')
    await next.ready()
    await until('the old one stands by', () => old.phase === 'standby')
    throws = true
    await until('the old one serves', () => old.phase === 'serving')
    expect(old.status().lastFailure).toMatchObject({
      code: 'ERR_FDB_UNHEALTHY',
      message: expect.stringMatching(/not healthy for \d+ ms .*: its health hook threw: of the hook$/),
    })
  })

  it('may say why the process is not well, which is the reason of the failure', async () => {
    const { service, old } = await serving()
    let word: boolean | string = true
    const next = await service.join({ health: () => word })
    await service.serve(next, 'new')
    expect([old.status().incumbent, next.status().incumbent]).toEqual([null, process.pid])
    await next.ready()
    await until('the old one stands by', () => old.phase === 'standby')
    expect([old.status().incumbent, next.status().incumbent]).toEqual([null, process.pid])
    word = 'the database is gone'
    await until('the old one serves', () => old.phase === 'serving')
    expect(old.status().lastFailure?.message).toMatch(/not healthy for \d+ ms .*: the database is gone$/)
  })
})

describe('a process that stands by', () => {
  it('reads what its successor has sent before it judges it, after a stall of its own', async () => {
    const { service, old } = await serving()
    const events: string[] = []
    old.on('reinstated', () => events.push('reinstated'))
    const next = await service.join()
    await service.serve(next, 'new')
    await next.ready()
    await until('the old one stands by', () => old.phase === 'standby')
    // With one turn between two stalls, the second comes after the turn has read and before the old one judges.
    for (const turns of [5, 5, 1, 1, 1]) {
      // Longer than the limit of a silence, and too short to count as a suspension of the process.
      const over = performance.now() + TIMES.silence + 2 * TIMES.heartbeat
      while (performance.now() < over);
      for (let turn = 0; turn < turns; turn++) await new Promise(resolve => setImmediate(resolve))
    }
    expect(events).toEqual([])
    expect([old.phase, next.phase]).toEqual(['standby', 'serving'])
  })
})

describe('a process that stands by and cannot come back', () => {
  const first = defineSection({ version: 1, codec: codec.json<unknown>() })
  const second = defineSection({ version: 2, minReader: 2, codec: codec.json<unknown>(), migrate: v => v })

  it('says so as soon as it knows, and does not turn away from a successor that lives', async () => {
    const service = new Service()
    const logged: string[] = []
    const old = await service.join({}, message => logged.push(message))
    await service.serve(old, 'old')
    const events: string[] = []
    for (const event of ['retiring', 'reinstated', 'unfit'] as const) old.on(event, () => events.push(event))
    const routes = old.section('routes', first)
    await old.ready()
    await routes.put('a', 1)
    let well = true
    const next = await service.join({ health: () => well })
    await service.serve(next, 'new')
    const routesThere = next.section('routes', second)
    await next.ready()
    expect(old.status().unfit).toBeNull()
    await routesThere.put('a', { two: 2 })
    await until('it is known', () => {
      routes.get('a')
      return old.status().unfit?.code === 'ERR_FDB_SCHEMA'
    })
    well = false
    await until('it is kept', () =>
      logged.some(message => message.startsWith('the successor is not healthy')),
    )
    expect([old.phase, next.phase]).toEqual(['standby', 'serving'])
    await routesThere.put('b', { two: 2 })
    expect(await service.ask()).toBe('new')
    expect(events).toEqual(['retiring'])
  })

  it('and finds it only when it is to, gives the right back: nothing that is written meanwhile is lost', async () => {
    const service = new Service()
    const old = await service.join({ stateLimits: { keyBytes: 8 } })
    await service.serve(old, 'old')
    const events: string[] = []
    for (const event of ['retiring', 'reinstated', 'unfit'] as const) old.on(event, () => events.push(event))
    await old.ready()
    let well = true
    const next = await service.join({ stateLimits: { keyBytes: 400 }, health: () => well })
    await service.serve(next, 'new')
    await next.ready()
    await until('the old one stands by', () => old.phase === 'standby')
    const notes = next.section('notes')
    // No process reads here: only the next one that takes over finds that this cannot be read.
    const written = Array.from({ length: 20 }, (_, i) => notes.put(`a longer key ${i}`, Buffer.from('x')))
    well = false
    await Promise.all(written)
    await until('it has tried', () => old.status().unfit?.code === 'ERR_FDB_STATE_LIMIT')
    await until(
      'the new one serves again',
      () => old.status().phase === 'probation' && old.phase === 'standby',
    )
    expect(next.phase).toBe('serving')
    await notes.put('b', Buffer.from('y'))
    expect(notes.size).toBe(21)
    expect(await service.ask()).toBe('new')
    expect(events.filter(event => event !== 'unfit')).toEqual(['retiring'])
  })
})

it('a rollback by an operator is logged as such, and not as a failure', async () => {
  const service = new Service()
  const logged: { readonly message: string; readonly facts: { readonly [fact: string]: unknown } }[] = []
  const old = await service.join({}, (message, facts) => logged.push({ message, facts }))
  await service.serve(old, 'old')
  await old.ready()
  const next = await service.join()
  await service.serve(next, 'new')
  await next.ready()
  await until('the old one stands by', () => old.phase === 'standby')
  using client = await OperatorClient.connect(service.control)
  await client.command('service.rollback', '')
  await until('the old one serves', () => old.phase === 'serving')
  expect(logged.map(({ message }) => message)).toContainEqual(
    expect.stringMatching(
      new RegExp(
        `^process ${process.pid} serves again: fd-broker rollback by uid ${process.getuid!()} \\(pid \\d+\\)$`,
      ),
    ),
  )
  expect(logged.filter(({ message }) => message.includes('failed'))).toEqual([])
  expect(old.status().lastFailure).toMatchObject({ code: 'ERR_FDB_SUCCESSOR_LEFT', phase: 'probation' })
})
