import type { Server } from 'node:net'
import { FdbError, type Logger } from '../../index.js'
import { ASKED, type Asked } from '../../probing/asked.js'
import { askAgain, type Question } from '../../probing/question.js'
import type { HealthConfig } from '../config/config.js'
import type { PrivateSocket } from './private-socket.js'

/** The entrance that is asked: how its clients come to it, without the listener that all versions share. */
export interface Asks {
  readonly server: Server
  readonly tls: boolean
}

/**
 * By what this process proves that it is well: before the commit, and as long as the version before stands by. Its questions come by
 * a socket that this process alone has. Owns what it opens.
 */
export class Health implements Disposable {
  readonly #config: HealthConfig
  readonly #question: Question
  readonly #logger: Logger
  readonly #socket: PrivateSocket | null
  readonly #over = new AbortController()
  /** What was asked last, and what was answered; null: all is well. */
  #complaint: string | null = null

  private constructor(
    config: HealthConfig,
    question: Question,
    socket: PrivateSocket | null,
    logger: Logger,
  ) {
    this.#config = config
    this.#question = question
    this.#socket = socket
    this.#logger = logger
  }

  /** `asks` null: no listener takes requests. Loads what this way of asking needs, and no other. */
  static async of(config: HealthConfig, asks: Asks | null, logger: Logger): Promise<Health> {
    const asked = askedOf(config)
    switch (asked.kind) {
      case 'http': {
        const { httpQuestion, privateHttpQuestion } = await import('../../probing/http-question.js')
        const { connectionTo } = await import('../../probing/connection-to.js')
        const { url: path } = asked
        if (asks === null || !path.startsWith('/'))
          return new Health(config, httpQuestion(path), null, logger)
        const { server, tls } = asks
        const host = config.host ?? 'localhost'
        const question = privateHttpQuestion({ path, host, tls, connect: () => connectionTo(server) })
        return new Health(config, question, null, logger)
      }
      case 'tcp': {
        const { tcpQuestion } = await import('../../probing/tcp-question.js')
        return new Health(config, tcpQuestion(asked.host, asked.port), null, logger)
      }
      case 'command': {
        const { commandQuestion } = await import('../../probing/command-question.js')
        const { shellWith } = await import('./shell.js')
        const { PrivateSocket } = await import('./private-socket.js')
        const socket = asks === null ? null : await PrivateSocket.open(asks.server)
        const env = { FD_BROKER_PID: `${process.pid}`, ...(socket && { FD_BROKER_SOCKET: socket.path }) }
        return new Health(config, commandQuestion(asked.text, shellWith(env)), socket, logger)
      }
    }
  }

  /** For `join({ health })`: true, or why not. */
  get word(): true | string {
    return this.#complaint ?? true
  }

  /**
   * Resolves when it has passed so often in a row, and when it is not `needed` any more: nobody else would serve. Rejects with
   * ERR_FDB_UNHEALTHY, and when `signal` aborts.
   */
  async prove(signal: AbortSignal, needed: () => boolean): Promise<void> {
    const { passes, within } = this.#config
    const late = AbortSignal.timeout(within)
    const proved = new AbortController()
    const ends = AbortSignal.any([signal, this.#over.signal, late, proved.signal])
    let inARow = 0
    let asked = 0
    let last = ''
    await askAgain(
      this.#question,
      () => this.#config,
      ends,
      why => {
        asked++
        inARow = why === null ? inARow + 1 : 0
        if (why !== null) last = why
        if (inARow === passes || !needed()) proved.abort()
      },
    )
    if (proved.signal.aborted || !needed()) return
    signal.throwIfAborted()
    const often = `${passes} good answer${passes === 1 ? '' : 's'} in a row`
    const said = last === '' ? `${this.#question.asked}: no answer` : last
    throw new FdbError(
      'ERR_FDB_UNHEALTHY',
      `upgrade.health: not ${often} within ${within} ms (asked ${asked} times): ${said}`,
      { details: { asked: this.#question.asked, times: asked, last: said } },
    )
  }

  /** Asks from now on, as long as `needed` says so; then, and when disposed of, all is well. */
  watch(needed: () => boolean): void {
    const { signal } = this.#over
    const tell = (why: string | null) => {
      if (!needed()) {
        this[Symbol.dispose]()
        return
      }
      if ((why === null) !== (this.#complaint === null)) {
        if (why === null) this.#logger.info({}, 'well again, as upgrade.health asks')
        else
          this.#logger.warn(
            { why },
            'not well, as upgrade.health asks: the version before comes back if it stays so',
          )
      }
      this.#complaint = why
    }
    void askAgain(this.#question, () => this.#config, signal, tell)
  }

  [Symbol.dispose](): void {
    this.#complaint = null
    this.#over.abort()
    this.#socket?.[Symbol.dispose]()
  }
}

function askedOf({ http, tcp, command }: HealthConfig): Asked {
  return (http !== null ? ASKED.http(http) : tcp !== null ? ASKED.tcp(tcp) : ASKED.command(command ?? ''))!
}
