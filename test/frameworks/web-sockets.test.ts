import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import type { AutoProgram } from '../e2e/auto-program.js'
import { processesLeft } from '../e2e/auto-record.js'
import { until } from '../processes/until.js'
import { installed } from './installed.js'
import { unexpectedLines, unmodified } from './unmodified.js'

const CLIENTS = 6
const UPGRADES = 4
const BUSY_MS = 60_000
/** Half of it is for the move, also on a busy machine. */
const DRAIN = { FD_BROKER_DRAIN: '60s' }
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** Upgrades it, each time until all clients are with the next version. */
async function upgraded(program: AutoProgram, areWith: (pid: number) => boolean): Promise<void> {
  for (let generation = 2; generation <= 1 + UPGRADES; generation++) {
    const pid = await program.serve('import', generation)
    await until('all clients are with the next version', () => areWith(pid), BUSY_MS)
  }
  await processesLeft(program, 1)
  expect(unexpectedLines(program)).toEqual([])
}

/** Asks one question after the other over one WebSocket. */
class Client {
  readonly wrong: string[] = []
  pid = 0
  #answers = 0

  constructor(url: string, room: string) {
    const ws = new WebSocket(`${url.replace('http:', 'ws:')}/talk/${room}`)
    onTestFinished(() => ws.terminate())
    const ask = () => ws.send(`question ${this.#answers + 1}`)
    ws.on('open', ask)
    ws.on('error', error => this.wrong.push(error.message))
    ws.on('close', code => this.wrong.push(`closed with ${code}`))
    ws.on('message', data => {
      const n = ++this.#answers
      const [, pid] = new RegExp(`^question ${n} ${n} in ${room} to pid (\\d+)$`).exec(String(data)) ?? []
      if (pid === undefined) this.wrong.push(`${data} in place of answer ${n}`)
      this.pid = Number(pid)
      setTimeout(ask, 20)
    })
  }
}

it('WebSockets of express-ws, of routes with parameters, go on in each version', {
  timeout: 240_000,
}, async () => {
  const program = await unmodified('express-ws.mjs', { modules, env: DRAIN })
  await program.serve()
  const clients = Array.from({ length: CLIENTS }, (_, n) => new Client(program.url, `room${n}`))
  await until('all are answered', () => clients.every(({ pid }) => pid !== 0), BUSY_MS)
  await upgraded(program, pid => clients.every(one => one.pid === pid || one.wrong.length > 0))
  expect(clients.flatMap(({ wrong }) => wrong)).toEqual([])
})

/** A client of graphql-ws with one subscription, which makes queries over the same connection. */
class Subscriber {
  readonly wrong: unknown[] = []
  readonly ends: number[] = []
  readonly counts: number[] = []
  /** The process that has sent the last event, and the one that has answered the last query. */
  pid = 0
  queriedPid = 0

  static async open(url: string, options: object): Promise<Subscriber> {
    const { createClient } = await import(pathToFileURL(join(modules, 'graphql-ws/dist/client.js')).href)
    const subscriber = new Subscriber()
    const client = createClient({ url: url.replace('http:', 'ws:'), webSocketImpl: WebSocket, ...options })
    let stopped = false
    onTestFinished(() => {
      stopped = true
      void client.dispose()
    })
    client.on('closed', (event: { code: number }) => stopped || subscriber.ends.push(event.code))
    const fault = (error: unknown) => stopped || subscriber.wrong.push(error)
    const complete = () => fault('complete')
    client.subscribe(
      { query: 'subscription ($from: Int!) { count(from: $from) { n pid } }', variables: { from: 1 } },
      {
        next: ({ data }: { data: { count: { n: number; pid: number } } }) => {
          subscriber.counts.push(data.count.n)
          subscriber.pid = data.count.pid
        },
        error: fault,
        complete,
      },
    )
    const query = () => {
      const next = ({ data }: { data: { pid: number } }) => {
        subscriber.queriedPid = data.pid
      }
      client.subscribe(
        { query: '{ pid }' },
        { next, error: fault, complete: () => stopped || setTimeout(query, 30) },
      )
    }
    query()
    return subscriber
  }

  isWith(pid: number): boolean {
    return this.wrong.length > 0 || (this.pid === pid && this.queriedPid === pid)
  }
}

describe('subscriptions of graphql-ws', () => {
  it('go on in each version, each event once, if it gets the operations again', {
    timeout: 240_000,
  }, async () => {
    const program = await unmodified('graphql-ws.mjs', { modules, env: DRAIN })
    await program.serve()
    const open = () => Subscriber.open(program.url, { retryAttempts: 0 })
    const subscribers = await Promise.all(Array.from({ length: CLIENTS }, open))
    await upgraded(program, pid => subscribers.every(subscriber => subscriber.isWith(pid)))
    for (const { wrong, ends, counts } of subscribers) {
      expect([wrong, ends]).toEqual([[], []])
      expect(counts).toEqual(counts.map((_, i) => i + 1))
    }
  })

  it('begin again with the next version if there are no hooks', { timeout: 240_000 }, async () => {
    const program = await unmodified('graphql-ws-again.mjs', { modules, env: { FD_BROKER_DRAIN: '4s' } })
    await program.serve()
    const open = () => Subscriber.open(program.url, { retryAttempts: 20 })
    const subscribers = await Promise.all(Array.from({ length: CLIENTS }, open))
    await upgraded(program, pid => subscribers.every(subscriber => subscriber.isWith(pid)))
    for (const { wrong, ends } of subscribers) expect([wrong, ends]).toEqual([[], Array(UPGRADES).fill(1012)])
  })
})
