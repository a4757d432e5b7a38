import type { Code } from '../globals.js'
import { connectTcpNow } from '../kernel/addon.js'
import { DEAD, type SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { BYTES, HOST, isDurable, NUMBERS, PORT, READ, REFUSED, STAYS, sendAll } from './program.js'
import { HELLO, HELLO_BYTES, hasTls, recordsOf } from './records.js'

/** The observations of a client. Times are those of the world. */
export interface History {
  readonly refused: { readonly at: number; readonly code: string }[]
  /** Keys of changes that the service has acknowledged, with the times of the request and of the answer. */
  readonly acknowledged: { readonly askedAt: number; readonly at: number; readonly key: string }[]
  readonly failed: number[]
  /** All answers, also to reads. */
  readonly answers: ('made' | 'refused')[]
  readonly wrong: string[]
  readonly cut: { readonly at: number; readonly how: string; readonly inFlight: boolean }[]
  /** When the request was sent that has no answer yet. */
  askedAt: number | null
}

const RETRY_MS = 50
const PAUSE_MS = 50
const MOST_PAUSE_MS = 250
/** After so many requests a client asks less often: most troubles are over. */
const MANY = 80
const CALM = 4
/** How a connection ends that its client ends. */
const ANSWERED = 'answered'

/** The last acknowledged number of each client: a read that begins later must not show an older one. */
export class Lasts {
  readonly #all: number[]
  readonly #durable: number[]
  /** Whether a version that drains may lack the last changes of the serving one: no daemon sends them. Clients still see their own changes. */
  mayLag = () => false

  constructor(clients: number) {
    this.#all = Array.from({ length: clients }, () => 0)
    this.#durable = [...this.#all]
  }

  get clients(): number {
    return this.#all.length
  }

  of(client: number): number {
    return this.#all[client]!
  }

  set(client: number, number: number): void {
    this.#all[client] = number
    if (isDurable(number)) this.#durable[client] = number
  }

  /** The service has ended, and begins without a state. */
  forget(): void {
    this.#all.fill(0)
    this.#durable.fill(0)
  }

  /** A version has begun with the state file alone, which has the durable changes. */
  startAgain(): void {
    this.#all.splice(0, this.clients, ...this.#durable)
  }
}

/** Starts clients: each keeps one connection, sends a request a while after each answer, and connects again when the connection ends. The last `callers` clients end it after each answer. */
export function startClients(code: Code, world: World, lasts: Lasts, callers = 0): History[] {
  const keep = lasts.clients - callers
  return Array.from({ length: lasts.clients }, (_, index) =>
    startClient(code, world, lasts, index, index >= keep),
  )
}

/** `calls`: ends its connection after each answer. */
export function startClient(code: Code, world: World, lasts: Lasts, index: number, calls: boolean): History {
  const history: History = {
    refused: [],
    acknowledged: [],
    failed: [],
    answers: [],
    wrong: [],
    cut: [],
    askedAt: null,
  }
  world.start(`c${index + 1}`, p => new Client(code, p, history, index, lasts, calls).run())
  return history
}

class Client {
  readonly #code: Code
  readonly #p: SimulatedProcess
  readonly #history: History
  readonly #index: number
  readonly #lasts: Lasts
  /** Ends its connection after each answer. */
  readonly #calls: boolean
  /** The last number that this client has sent. */
  #last: number
  #requests = 0
  /** The client whose number was asked for, and its last acknowledged number then; null: the request is a change. */
  #reading: { readonly of: number; readonly least: number } | null = null

  constructor(
    code: Code,
    p: SimulatedProcess,
    history: History,
    index: number,
    lasts: Lasts,
    calls: boolean,
  ) {
    this.#calls = calls
    this.#code = code
    this.#p = p
    this.#history = history
    this.#index = index
    this.#lasts = lasts
    this.#last = index * NUMBERS
  }

  async run(): Promise<void> {
    const { world } = this.#p
    for (;;) {
      let fd = -1
      try {
        fd = connectTcpNow(HOST, PORT)
      } catch (error) {
        if (error === DEAD) throw error
        this.#history.refused.push({
          at: world.now,
          code: (error as NodeJS.ErrnoException).code ?? String(error),
        })
        await new Promise<void>(resolve => this.#p.setTimer(resolve, RETRY_MS))
        continue
      }
      const how = await this.#use(fd)
      if (how === ANSWERED) {
        this.#code.addon.close(fd)
        await new Promise<void>(resolve => this.#p.setTimer(resolve, this.#pauseMs()))
        continue
      }
      this.#history.cut.push({ at: world.now, how, inFlight: this.#history.askedAt !== null })
      this.#history.askedAt = null
      world.note(this.#p, `its connection has ended: ${how}`)
      this.#code.addon.close(fd)
    }
  }

  /** Sends requests until the connection ends. Resolves with how it ended. */
  #use(fd: number): Promise<string> {
    const { addon } = this.#code
    const request = Buffer.alloc(BYTES)
    const into = Buffer.alloc(64)
    let got: Buffer = Buffer.alloc(0)
    const hello = this.#hello()
    const records = hello && recordsOf(this.#code, hello, 'client')
    const take = (bytes: Buffer) => {
      if (records === null) got = Buffer.concat([got, bytes])
      else
        records.receive(bytes, content => {
          got = Buffer.concat([got, content])
        })
    }
    return new Promise(resolve => {
      let over = false
      const end = (how: string) => {
        over = true
        poll.close()
        resolve(how)
      }
      const send = () => {
        if (over) return
        this.#ask(request)
        this.#history.askedAt = this.#p.world.now
        try {
          if (records === null) sendAll(this.#code, fd, request)
          else this.#sendInParts(fd, Buffer.concat(records.seal(request)), () => over)
        } catch (error) {
          end((error as NodeJS.ErrnoException).code ?? String(error))
        }
      }
      const poll = addon.createPoll(fd, () => {
        try {
          const { bytes } = addon.receiveMessage(fd, into, 0, into.length)
          if (bytes === 0) return end('closed')
          take(into.subarray(0, Math.max(0, bytes)))
        } catch (error) {
          const { code, message } = error as NodeJS.ErrnoException
          if (code === 'EPROTO') this.#history.wrong.push(message)
          return end(code ?? String(error))
        }
        if (got.length < BYTES) return
        this.#answered(got.readUInt32BE(0), request)
        got = got.subarray(BYTES)
        if (this.#calls) end(ANSWERED)
        else this.#p.setTimer(send, this.#pauseMs())
      })
      poll.start(1)
      this.#p.setTimer(() => {
        if (hello !== null && !over) sendAll(this.#code, fd, hello)
        send()
      }, 1)
    })
  }

  /** Sends a record in two parts, with a pause in between. */
  #sendInParts(fd: number, record: Buffer, isOver: () => boolean): void {
    const { world } = this.#p
    const end = 1 + world.below(record.length)
    sendAll(this.#code, fd, record.subarray(0, end))
    this.#p.setTimer(() => {
      if (!isOver() && end < record.length) sendAll(this.#code, fd, record.subarray(end))
    }, world.below(MOST_PAUSE_MS))
  }

  /** In the runs with TLS all clients have it but the one whose connections stay. Null without TLS. */
  #hello(): Buffer | null {
    const { entropy, seed } = this.#p.world
    if (!hasTls(seed) || this.#index === STAYS) return null
    return Buffer.from([HELLO, ...Array.from({ length: HELLO_BYTES - 1 }, () => Math.floor(entropy() * 256))])
  }

  #pauseMs(): number {
    const pauseMs = PAUSE_MS + this.#p.world.below(MOST_PAUSE_MS - PAUSE_MS)
    return ++this.#requests > MANY ? pauseMs * CALM : pauseMs
  }

  /** Writes the next request: a change, or every third time a read of any client's last number. */
  #ask(request: Buffer): void {
    const { world } = this.#p
    this.#reading = null
    if (world.below(3) > 0) request.writeUInt32BE(++this.#last)
    else {
      const of = world.below(this.#lasts.clients)
      this.#reading = { of, least: this.#lasts.of(of) }
      request.writeUInt32BE(READ + of)
    }
  }

  #answered(answer: number, request: Buffer): void {
    const history = this.#history
    history.answers.push(answer === REFUSED ? 'refused' : 'made')
    if (history.askedAt === null) history.wrong.push(`an answer without a request: ${answer}`)
    else if (this.#reading !== null) {
      const { of, least } = this.#reading
      // Another process may answer each call.
      const isOwn = of === this.#index && !this.#calls
      if (answer < least && (isOwn || !this.#lasts.mayLag()))
        history.wrong.push(
          `a read of the last number of client ${of + 1} shows ${answer}, older than ${least}`,
        )
    } else if (answer === this.#last) {
      const { askedAt } = history
      history.acknowledged.push({ askedAt, at: this.#p.world.now, key: request.toString('hex') })
      this.#lasts.set(this.#index, answer)
    } else if (answer === REFUSED) history.failed.push(this.#p.world.now)
    else history.wrong.push(`${answer} for ${this.#last}`)
    history.askedAt = null
  }
}
