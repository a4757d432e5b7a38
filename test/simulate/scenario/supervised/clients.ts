import type { Code } from '../../globals.js'
import { connectTcpNow } from '../../kernel/addon.js'
import type { Stream } from '../../kernel/objects.js'
import { DEAD, type SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { BYTES, HOST, PORT, sendAll } from '../program.js'

const READABLE = 1
const RETRY_MS = 50
const LEAST_PAUSE_MS = 100
const MOST_PAUSE_MS = 500

/** The observations of a client. Times are those of the world. */
export interface ClientHistory {
  readonly refused: { readonly at: number; readonly code: string }[]
  /** Requests without an answer: their connection has ended. */
  readonly cut: { readonly at: number; readonly how: string; readonly end: Stream }[]
  readonly wrong: string[]
  answered: number
  /** When the request was sent that has no answer yet. */
  askedAt: number | null
}

/** Starts clients. The first half keep their connections, the others call once in each. */
export function startCallers(code: Code, world: World, count: number): ClientHistory[] {
  return Array.from({ length: count }, (_, index) => {
    const history: ClientHistory = { refused: [], cut: [], wrong: [], answered: 0, askedAt: null }
    world.start(`c${index + 1}`, p => new Caller(code, p, history, index < count / 2).run())
    return history
  })
}

class Caller {
  readonly #code: Code
  readonly #p: SimulatedProcess
  readonly #history: ClientHistory
  readonly #keeps: boolean
  #number = 0

  constructor(code: Code, p: SimulatedProcess, history: ClientHistory, keeps: boolean) {
    this.#code = code
    this.#p = p
    this.#history = history
    this.#keeps = keeps
  }

  async run(): Promise<void> {
    for (;;) {
      let fd: number
      try {
        fd = connectTcpNow(HOST, PORT)
      } catch (error) {
        if (error === DEAD) throw error
        const { code = String(error) } = error as NodeJS.ErrnoException
        this.#history.refused.push({ at: this.#p.world.now, code })
        await this.#pause(RETRY_MS)
        continue
      }
      const end = this.#p.fds.get(fd) as Stream
      let how: string | null
      let answers = 0
      do {
        how = await this.#ask(fd)
        if (how === null) answers++
        await this.#pause(LEAST_PAUSE_MS + this.#p.world.below(MOST_PAUSE_MS))
      } while (how === null && this.#keeps)
      // A server may close a kept connection while a request is on its way: clients repeat such a request.
      if (how !== null && answers === 0) {
        this.#history.cut.push({ at: this.#p.world.now, how, end })
        this.#p.world.note(this.#p, `its request has no answer: ${how}`)
      }
      this.#code.addon.close(fd)
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise(resolve => this.#p.setTimer(resolve, ms))
  }

  /** Sends a request. Resolves with null if it was answered, otherwise with how the connection has ended. */
  #ask(fd: number): Promise<string | null> {
    const { addon } = this.#code
    const history = this.#history
    const request = Buffer.alloc(BYTES)
    request.writeUInt32BE(++this.#number)
    const into = Buffer.alloc(64)
    let got = Buffer.alloc(0)
    return new Promise(resolve => {
      const over = (how: string | null) => {
        history.askedAt = null
        poll.close()
        resolve(how)
      }
      const poll = addon.createPoll(fd, () => {
        try {
          const { bytes } = addon.receiveMessage(fd, into, 0, into.length)
          if (bytes === 0) return over('closed')
          got = Buffer.concat([got, into.subarray(0, Math.max(0, bytes))])
        } catch (error) {
          return over((error as NodeJS.ErrnoException).code ?? String(error))
        }
        if (got.length < BYTES) return
        if (got.equals(request)) history.answered++
        else history.wrong.push(`${got.toString('hex')} for ${request.toString('hex')}`)
        over(null)
      })
      poll.start(READABLE)
      history.askedAt = this.#p.world.now
      try {
        sendAll(this.#code, fd, request)
      } catch {
        over('closed')
      }
    })
  }
}
