import http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { type Place, place } from '../connections-support/http-pair.js'
import { moveBetween } from '../connections-support/move-between.js'
import { moveStreams } from '../connections-support/streams.js'
import { Numbering } from '../connections-support/web-sockets.js'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'

const PROCESSES = 3
const CLIENTS = 6
/** Messages that a client sends ahead of their answers. */
const AHEAD = 3
const BUSY_MS = 60_000

interface Round {
  /** Sends, and receives. */
  readonly from: number
  readonly to: number
  /** Turns of the event loop until something ends the moves. */
  readonly turns: number
  /** `channel`: it breaks, and each of both finds out alone which connections it has. */
  readonly ends: 'sender' | 'receiver' | 'channel'
  /** The number of connections that come back, because the application's hook throws. */
  readonly throws: number
}

const ROUND: fc.Arbitrary<Round> = fc
  .record({
    from: fc.nat(PROCESSES - 1),
    to: fc.nat(PROCESSES - 1),
    turns: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 40, max: 400 })),
    ends: fc.constantFrom('sender', 'receiver', 'channel'),
    throws: fc.constantFrom(0, 0, 1, 3),
  })
  // A connection whose hook has failed goes back: where the channel breaks it cannot, and is lost.
  .map(round => (round.ends === 'channel' ? { ...round, throws: 0 } : round))

/** A client that checks what it gets: each message once, and in order. */
interface Client {
  /** How many messages it has got. */
  readonly count: number
  readonly fault: string | null
}

interface Process {
  readonly at: Place
  /** The next hooks that throw. */
  throws: number
}

interface Kind {
  readonly name: string
  process(): Promise<Process>
  connect(at: Place): Client
}

/** A text that differs from others, and is longer than a record of TLS now and then. */
function textOf(n: number): string {
  return `${n} ${String.fromCharCode(97 + (n % 26)).repeat(n % 7 === 0 ? 20_000 : n % 300)}`
}

const secure = () => https.createServer({ cert: CERTIFICATE, key: KEY, keepAliveTimeout: BUSY_MS })
const plain = () => http.createServer({ keepAliveTimeout: BUSY_MS })
const servedOf = (server: http.Server) =>
  place(server, 'setTicketKeys' in server ? { tls: { move: 'on' } } : {})
const portOf = ({ server }: Place) => (server.address() as net.AddressInfo).port

function throwing(process: Process | null): void {
  if (process === null || process.throws === 0) return
  process.throws--
  throw new Error('the hook of the test')
}

function webSockets(made: () => http.Server): Omit<Kind, 'name'> {
  return {
    async process() {
      let process: Process | null = null
      const server = made()
      const numbering: Numbering = new Numbering(
        'x',
        { perMessageDeflate: { threshold: 0 } },
        {
          restore: (ws, data) => {
            throwing(process)
            numbering.visit(ws, JSON.parse(Buffer.from(data).toString()))
          },
        },
        undefined,
        server,
      )
      process = { at: await servedOf(server), throws: 0 }
      return process
    },
    connect(at) {
      const scheme = 'setTicketKeys' in at.server ? 'wss' : 'ws'
      const ws = new WebSocket(`${scheme}://127.0.0.1:${portOf(at)}/`, { rejectUnauthorized: false })
      onTestFinished(() => ws.terminate())
      const client = { count: 0, fault: null as string | null }
      let sent = 0
      const send = () => ws.send(textOf(++sent))
      ws.on('open', () => {
        for (let n = 0; n < AHEAD; n++) send()
      })
      ws.on('message', data => {
        const n = ++client.count
        if (String(data) !== `x ${n} ${textOf(n)}`)
          client.fault ??= `message ${n} is ${String(data).slice(0, 40)}`
        send()
      })
      ws.on('close', code => (client.fault ??= `closed with ${code}`))
      ws.on('error', error => (client.fault ??= error.message))
      return client
    },
  }
}

/** Numbered lines without an end, as fast as the client takes them. */
function streams(made: () => http.Server): Omit<Kind, 'name'> {
  return {
    async process() {
      let process: Process | null = null
      const open = new WeakMap<http.ServerResponse, { count: number; timer: NodeJS.Timeout }>()
      const goOn = (response: http.ServerResponse, count: number) => {
        const next = () => {
          stream.count++
          if (response.write(`${textOf(stream.count)}\n`)) stream.timer = setTimeout(next, 1)
        }
        const stream = { count, timer: setTimeout(next, 1) }
        open.set(response, stream)
        response.on('drain', () => {
          stream.timer = setTimeout(next, 1)
        })
        response.on('close', () => clearTimeout(stream.timer))
      }
      const server = made().on('request', (_request, response) => goOn(response, 0))
      moveStreams(server, {
        serialize: (_request, response) => {
          const { count, timer } = open.get(response)!
          clearTimeout(timer)
          return Buffer.from(`${count}`)
        },
        restore: (_request, response, data) => {
          throwing(process)
          goOn(response, Number(Buffer.from(data).toString()))
        },
      })
      process = { at: await servedOf(server), throws: 0 }
      return process
    },
    connect(at) {
      const client = { count: 0, fault: null as string | null }
      const { get } = 'setTicketKeys' in at.server ? https : http
      const asked = get({ port: portOf(at), host: '127.0.0.1', rejectUnauthorized: false, agent: false })
      onTestFinished(() => void asked.destroy())
      asked.on('error', error => (client.fault ??= error.message))
      asked.on('response', answer => {
        let rest = ''
        answer.setEncoding('latin1').on('data', chunk => {
          const lines = `${rest}${chunk}`.split('\n')
          rest = lines.pop()!
          for (const line of lines)
            if (line !== textOf(++client.count))
              client.fault ??= `line ${client.count} is ${line.slice(0, 40)}`
        })
        answer.on('close', () => (client.fault ??= 'closed'))
      })
      return client
    },
  }
}

/** One request after the other over one connection. */
function requests(made: () => http.Server): Omit<Kind, 'name'> {
  return {
    async process() {
      const server = made().on('request', (request, response) => {
        response.end(textOf(Number(request.url!.slice(1))))
      })
      return { at: await servedOf(server), throws: 0 }
    },
    connect(at) {
      const client = { count: 0, fault: null as string | null }
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
      onTestFinished(() => agent.destroy())
      const port = portOf(at)
      let socket: net.Socket | null = null
      const ask = () => {
        const asked = https.get({ port, host: '127.0.0.1', agent, path: `/${client.count + 1}` })
        asked.on('error', error => (client.fault ??= error.message))
        asked.on('response', async answer => {
          socket ??= answer.socket
          if (answer.socket !== socket) client.fault ??= 'another connection'
          let text = ''
          for await (const chunk of answer.setEncoding('latin1')) text += chunk
          if (text !== textOf(++client.count))
            client.fault ??= `answer ${client.count} is ${text.slice(0, 40)}`
          if (client.fault === null) setTimeout(ask, client.count % 3)
        })
      }
      ask()
      return client
    },
  }
}

const KINDS: readonly Kind[] = [
  { name: 'WebSockets', ...webSockets(plain) },
  { name: 'WebSockets over TLS', ...webSockets(secure) },
  { name: 'streamed answers', ...streams(plain) },
  { name: 'streamed answers over TLS', ...streams(secure) },
  { name: 'requests over TLS', ...requests(secure) },
]

async function move(old: Process, young: Process, { turns, ends, throws }: Round): Promise<void> {
  young.throws = throws
  const { sender, receiver, given, taken, ended, cut } = moveBetween([old.at.moving], young.at.moving)
  receiver.start()
  sender.start()
  for (let n = 0; n < turns; n++) await nextTurn()
  if (ends === 'sender') await sender.stop()
  else if (ends === 'receiver') await receiver.stop()
  else cut()
  await ended
  young.throws = 0
  expect([given.report.lost, taken.report.lost]).toEqual([0, 0])
}

async function allGoOn(clients: readonly Client[]): Promise<void> {
  const before = clients.map(({ count }) => count)
  await until(
    'each client gets more',
    () => clients.every(({ count, fault }, i) => fault !== null || count > before[i]! + AHEAD),
    BUSY_MS,
  )
  expect(clients.flatMap(({ fault }) => fault ?? [])).toEqual([])
}

describe.each(KINDS)('$name that move between three processes', ({ process, connect }) => {
  it('get and give everything once and in order, whatever ends the moves', {
    timeout: 10 * BUSY_MS,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(ROUND, { minLength: 3, maxLength: 5 }), async rounds => {
        const processes = [await process(), await process(), await process()]
        const clients = Array.from({ length: CLIENTS }, () => connect(processes[0]!.at))
        await allGoOn(clients)
        for (const round of rounds) {
          if (round.from === round.to) continue
          await move(processes[round.from]!, processes[round.to]!, round)
          await allGoOn(clients)
        }
        const open = processes.map(({ at }) => at.served.connections)
        expect(open.reduce((sum, count) => sum + count)).toBe(CLIENTS)
      }),
      { numRuns: perLane(1, 100) },
    )
  })
})
