import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, get } from 'node:http'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { Server } from 'socket.io'
import { expect, it, onTestFinished } from 'vitest'
import { codec, defineSection, join, type Member, serveDaemon } from '../../../src/index.js'
import {
  configFrom,
  followSource,
  HttpSource,
  KeyvStore,
  recoverSockets,
  startProxy,
} from '../../fixtures/work.js'
import { OwnTimers } from '../../processes/own-timers.js'
import { freePort } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

/** Handoffs to and fro: what is lost, or doubled, when a process has a part again shows in the second one. */
const ROUNDS = 2
/** Timers count as settled after so many equal looks. */
const SAME = 5
const LOOK_MS = 20
/** Timers for the application's work, neither for the handoff nor for a connection. */
const OF_WORK = /^(?:proxy|socket-io|sources|stores)\//

interface Version {
  readonly member: Member
  close(): Promise<unknown>
}

function folder(): string {
  const path = mkdtempSync(joinPath(tmpdir(), 'fdb-timers-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

type Start = (isFirst: boolean) => Promise<Version>

async function serverUrl(): Promise<string> {
  const server = createServer((_, response) => response.end('{}')).listen(0, '127.0.0.1')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  await until('it listens', () => server.listening)
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`
}

/** A program with a followed source, a store and a server of socket.io; the next version has none of them. */
async function program(control: string): Promise<Start> {
  const url = await serverUrl()
  return async isFirst => {
    if (isFirst) {
      const sockets = new Server(createServer())
      onTestFinished(() => void sockets.close())
      recoverSockets(sockets, { name: 'timers' })
    }
    const member = await join({ control, service: 'shop', hosting: 'daemon' })
    if (isFirst) {
      const answers = defineSection({ version: 1, codec: codec.json() })
      followSource(member, member.section('answers', answers), new HttpSource({ url }))
      await new KeyvStore({ member }).set('key', 1)
    }
    await member.ready()
    return { member, close: () => member.close() }
  }
}

/** A proxy that checks its servers, and does what else it does without a request. */
async function proxy(control: string): Promise<Start> {
  const server = await serverUrl()
  const port = await freePort()
  const config = configFrom({
    control,
    service: 'shop',
    listeners: [{ name: 'web', address: `tcp://127.0.0.1:${port}` }],
    metrics: `tcp://127.0.0.1:${await freePort()}`,
    upstreams: { app: { servers: [server], check: { http: '/', interval: '1m' } } },
    routes: [{ host: 'shop.test', path: '/', upstream: 'app', rateLimit: { requests: 10, per: '1m' } }],
  })
  return async () => {
    const running = await startProxy(config, { place: { hosting: 'daemon' } })
    await new Promise<void>((resolve, reject) => {
      const headers = { host: 'shop.test' }
      get({ port, headers, agent: false }, response => response.resume().on('end', resolve)).on(
        'error',
        reject,
      )
    })
    return { member: running.member, close: () => running.close({ timeout: 0 }) }
  }
}

it.each(Object.entries({ program, proxy }))(
  'the work of a %s has the same timers each time that its process serves, or stands by, and none in the end',
  async (what, prepare) => {
    using timers = new OwnTimers()
    const own = () => timers.places.filter(place => OF_WORK.test(place))
    const control = joinPath(folder(), 'control.sock')
    const daemon = await serveDaemon({ control })
    onTestFinished(() => daemon.close())
    const start = await prepare(control)
    const begin = async (isFirst: boolean) => {
      const version = await start(isFirst)
      onTestFinished(() => version.member.close({ timeout: 0 }))
      return version
    }
    const hasTimers = (expected: readonly string[]) =>
      until(`it has the timers ${expected.join(', ')}`, () => own().join() === expected.join(), 5_000, own)
    const first = await begin(true)
    const seen = new Map<string, string[]>()
    const has = async (part: string) => {
      await until(`the first is ${part}`, () => first.member.phase === part)
      // A check that is under way, for example, has another timer for a moment.
      const before = seen.get(part) ?? (await settled(own))
      seen.set(part, before)
      await hasTimers(before)
    }
    for (let round = 0; round < ROUNDS; round++) {
      await has('serving')
      const next = await begin(false)
      await has('standby')
      await next.close()
    }
    await has('serving')
    expect(seen.get('serving')).not.toEqual([])
    if (what === 'program') {
      const both = seen.get('serving')!.filter(place => seen.get('standby')!.includes(place))
      expect(both, 'the timers of a process that serves, beside one that serves').toEqual([])
    }
    await first.close()
    await hasTimers([])
  },
)

/** Resolves with the timers when they have been the same for a while. */
async function settled(own: () => readonly string[]): Promise<string[]> {
  for (let [before, same] = ['', 0]; ; ) {
    const now = own().join()
    same = now === before ? same + 1 : 0
    before = now
    if (same === SAME) return [...own()]
    await new Promise(resolve => setTimeout(resolve, LOOK_MS))
  }
}
