import { connect } from 'node:net'
import { pause, until } from './until.js'

/** A request without an answer in this time has none. */
const SILENT_MS = 15_000

/** A request that was not answered. Times are those of `performance.now()`. */
export interface Unanswered {
  readonly path: string
  readonly sentAt: number
  readonly at: number
  /** `refused`: there was no listener. `cut`: the connection ended before the answer was complete. */
  readonly kind: 'refused' | 'cut' | 'silent' | 'wrong'
  readonly how: string
}

/** Clients that send requests at a fixed rate, each on a connection of its own, whether or not earlier ones are answered. */
export class OpenLoop {
  readonly unanswered: Unanswered[] = []
  answers = 0
  readonly #port: number
  readonly #pathOf: (n: number) => string
  #inFlight = 0
  #timer: NodeJS.Timeout | null = null
  #sent = 0

  constructor(port: number, everyMs: number, pathOf: (n: number) => string) {
    this.#port = port
    this.#pathOf = pathOf
    this.#timer = setInterval(() => void this.#ask(this.#pathOf(this.#sent++)), everyMs)
  }

  /** Sends no more requests. Resolves when each one is answered, or counted as unanswered. */
  async stop(): Promise<void> {
    this.close()
    await until('each request is over', () => this.#inFlight === 0, SILENT_MS + 5_000)
  }

  close(): void {
    clearInterval(this.#timer ?? undefined)
    this.#timer = null
  }

  async #ask(path: string): Promise<void> {
    const sentAt = performance.now()
    this.#inFlight++
    const failed = await answerFailure(this.#port, path)
    this.#inFlight--
    if (failed === null) this.answers++
    else this.unanswered.push({ path, sentAt, at: performance.now(), ...failed })
  }
}

/** Resolves with null if the request is answered by 200 and the whole body. */
function answerFailure(port: number, path: string): Promise<Pick<Unanswered, 'kind' | 'how'> | null> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    let isConnected = false
    let how = 'FIN'
    const over = (failure: Pick<Unanswered, 'kind' | 'how'> | null) => {
      clearTimeout(timer)
      socket.destroy()
      resolve(failure)
    }
    const timer = setTimeout(over, SILENT_MS, { kind: 'silent', how: `no answer in ${SILENT_MS} ms` })
    socket.setEncoding('latin1')
    socket.on('connect', () => {
      isConnected = true
      socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    })
    socket.on('data', chunk => {
      text += chunk
      const [head = '', body] = text.split('\r\n\r\n')
      const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? Number.POSITIVE_INFINITY)
      if (body === undefined || body.length < length) return
      over(head.startsWith('HTTP/1.1 200 ') ? null : { kind: 'wrong', how: text.slice(0, 200) })
    })
    socket.on('error', error => {
      how = (error as NodeJS.ErrnoException).code ?? error.message
    })
    socket.on('close', () =>
      over({ kind: isConnected ? 'cut' : 'refused', how: `${how} ${text.slice(0, 80)}` }),
    )
  })
}

/** Resolves when a request is answered. */
export async function isAnswered(port: number, path = '/'): Promise<void> {
  for (;;) {
    if ((await answerFailure(port, path)) === null) return
    await pause(20)
  }
}
