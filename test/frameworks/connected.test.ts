import http from 'node:http'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import type { AutoProgram } from '../e2e/auto-program.js'
import { processesLeft } from '../e2e/auto-record.js'
import { perLane } from '../lanes/lane.js'
import * as operator from '../processes/operator.js'
import { pause, until } from '../processes/until.js'
import { installed } from './installed.js'
import { unmodified } from './unmodified.js'

/** Clients of each kind, upgrades, and how many of them are rolled back. */
const CLIENTS = perLane(10, 200)
const UPGRADES = perLane(3, 20)
const ROLLBACKS = perLane(1, 3)
const BUSY_MS = 120_000
/** Between two messages of a client. */
const TALK_MS = perLane(100, 1_000)
const PUBLISH_MS = 100
/** The previous version can serve again for this time; no other upgrade begins before its end. */
const PROBATION_MS = 10_000
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** The faults that one client has noticed, and the process that answered last. */
class Record {
  readonly kind: string
  readonly wrong: string[] = []
  pid = 0
  answers = 0

  constructor(kind: string) {
    this.kind = kind
  }

  /** The answer to the next question has its number twice: the client's and the server's. */
  answered(text: string): void {
    const n = ++this.answers
    if (!text.startsWith(`${n} ${n} to pid `)) this.wrong.push(`${text} in place of answer ${n}`)
    this.pid = Number(text.split(' ').at(-1))
  }
}

class Clients {
  readonly records: Record[] = []
  readonly events: number[][] = []
  readonly ticks: number[][] = []
  readonly #url: string
  readonly #talking: Promise<void>[] = []
  #stopped = false

  constructor(url: string) {
    this.#url = url
  }

  #record(kind: string): Record {
    const record = new Record(kind)
    this.records.push(record)
    return record
  }

  get wrong(): string[] {
    return this.records.flatMap(({ kind, wrong }) => wrong.map(each => `${kind}: ${each}`))
  }

  async eventStream(): Promise<void> {
    const record = this.#record('event stream')
    const got: number[] = []
    this.events.push(got)
    let text = ''
    const asked = http.get(`${this.#url}/events`, { agent: false })
    onTestFinished(() => {
      this.#stopped = true
      asked.destroy()
    })
    await new Promise<void>((resolve, reject) => {
      asked.on('error', reject)
      asked.on('response', response => {
        response.setEncoding('utf8').on('data', chunk => {
          const blocks = `${text}${chunk}`.split('\n\n')
          text = blocks.pop()!
          for (const block of blocks) {
            if (block.includes('event: gap')) record.wrong.push('gap')
            const [, n] = /^data: event (\d+)$/m.exec(block) ?? []
            if (n !== undefined) got.push(Number(n))
          }
          resolve()
        })
        response.on('error', () => {})
        response.on('close', () => this.#stopped || record.wrong.push('closed'))
      })
    })
  }

  async webSocket(): Promise<void> {
    const record = this.#record('WebSocket')
    const ws = new WebSocket(`${this.#url.replace('http:', 'ws:')}/talk`)
    onTestFinished(() => ws.terminate())
    await new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject))
    ws.on('error', () => {})
    ws.on('close', code => this.#stopped || record.wrong.push(`closed with ${code}`))
    let heard: (text: string) => void = () => {}
    ws.on('message', data => heard(String(data)))
    this.#talk(record, n => {
      ws.send(String(n))
      return new Promise(resolve => {
        heard = resolve
      })
    })
  }

  async socketIo(transport: string): Promise<void> {
    const { io } = await import(pathToFileURL(join(modules, 'socket.io-client/build/esm/index.js')).href)
    const record = this.#record(`socket.io by ${transport}`)
    const got: number[] = []
    this.ticks.push(got)
    const socket = io(this.#url, { forceNew: true, transports: [transport] })
    onTestFinished(() => void socket.close())
    await new Promise<void>((resolve, reject) =>
      socket.once('connect', resolve).once('connect_error', reject),
    )
    socket.on('disconnect', (reason: string) => this.#stopped || record.wrong.push(`disconnect: ${reason}`))
    socket.on('tick', (n: number) => got.push(n))
    this.#talk(record, n => socket.timeout(BUSY_MS).emitWithAck('count', String(n)))
  }

  #talk(record: Record, ask: (n: number) => Promise<string>): void {
    const talk = async () => {
      for (let n = 1; !this.#stopped && record.wrong.length === 0; n++) {
        record.answered(await ask(n).catch(error => `${error}`))
        await pause(TALK_MS)
      }
    }
    this.#talking.push(talk())
  }

  /** Until this process answers some client. */
  async answeredBy(pid: number): Promise<void> {
    await until(`process ${pid} answers`, () => this.records.some(record => record.pid === pid), BUSY_MS)
  }

  /** Until this process answers all that ask. */
  async servedBy(pid: number): Promise<void> {
    const asking = () => this.records.filter(({ kind }) => kind !== 'event stream')
    await until(
      `process ${pid} answers all`,
      () => this.wrong.length > 0 || asking().every(record => record.pid === pid),
      BUSY_MS,
      () =>
        asking()
          .filter(record => record.pid !== pid)
          .map(({ kind }) => kind),
    )
    expect(this.wrong).toEqual([])
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#talking)
  }
}

/** Publishes numbered events until it is stopped. */
class Publisher {
  published = 0
  #running = true
  readonly #done: Promise<void>

  constructor(url: string) {
    this.#done = this.#publish(url)
    // Reported by stop().
    this.#done.catch(() => {})
  }

  async #publish(url: string): Promise<void> {
    while (this.#running) {
      const n = this.published + 1
      const answer = await fetch(`${url}/publish/${n}`, { method: 'POST' })
      expect(await answer.text()).toMatch(/^pid \d+$/)
      this.published = n
      await pause(PUBLISH_MS)
    }
  }

  async stop(): Promise<number> {
    this.#running = false
    await this.#done
    return this.published
  }
}

async function serving(program: AutoProgram, pid: number): Promise<void> {
  await until(
    `process ${pid} serves`,
    async () => {
      const status = await operator.status(program.control).catch(() => null)
      return status?.pid === pid && status.role === 'serving'
    },
    BUSY_MS,
    () => program.output,
  )
}

describe('an Express application with event streams, WebSockets and socket.io', () => {
  it.each(['auto', 'join()'])(
    'loses no client, event, message or acknowledgement in upgrades and rollbacks: %s',
    { timeout: 1_800_000 },
    async by => {
      const env = {
        FD_BROKER_DRAIN: '60s',
        FD_BROKER_PROBATION: `${PROBATION_MS}ms`,
        PROBATION_MS: `${PROBATION_MS}`,
      }
      const program = await unmodified('connected.mjs', { modules, env })
      const start = async () => {
        const pid = await (by === 'auto'
          ? program.launch('import')
          : program.launch('nothing', { JOIN_CONTROL: program.control }))
        await serving(program, pid)
        return pid
      }
      let pid = await start()
      const clients = new Clients(program.url)
      for (let n = 0; n < CLIENTS; n++)
        await Promise.all([
          clients.eventStream(),
          clients.webSocket(),
          clients.socketIo('websocket'),
          clients.socketIo('polling'),
        ])
      const publisher = new Publisher(program.url)
      await clients.servedBy(pid)
      for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
        const next = await start()
        if (upgrade <= ROLLBACKS) {
          await clients.answeredBy(next)
          await program.command('rollback')
          await serving(program, pid)
          await clients.servedBy(pid)
          continue
        }
        await clients.servedBy(next)
        pid = next
        await until(
          'its probation ends',
          async () => (await operator.status(program.control)).probationSeconds === null,
          BUSY_MS,
        )
      }
      const published = await publisher.stop()
      const all = Array.from({ length: published }, (_, i) => i + 1)
      await until(
        'all have come',
        () => [...clients.events, ...clients.ticks].every(({ length }) => length >= published),
        BUSY_MS,
        () => [
          published,
          ...clients.events.map(({ length }) => length),
          ...clients.ticks.map(({ length }) => length),
        ],
      )
      await clients.stop()
      expect(clients.wrong).toEqual([])
      for (const got of clients.events) expect(got).toEqual(all)
      // Broadcasts of one process come in order; the last of one version may come behind the first of the next.
      for (const got of clients.ticks) expect(got.toSorted((one, other) => one - other)).toEqual(all)
      await processesLeft(program, 1)
    },
  )
})
