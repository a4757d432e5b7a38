import type { Server, Socket } from 'node:net'
import { FdbError, type Logger } from '../../index.js'
import { CHECK_PARSERS, type CheckSpec, type HealthCheck, repeatCheck } from '../../probing/health-check.js'
import type { HealthConfig } from '../config/config.js'

type HealthTimes = Pick<HealthConfig, 'interval' | 'passes' | 'timeout' | 'within'>

/** Checks the health of this process before the commit, and while the previous version stands by. Owns the private socket. */
export class HealthChecker implements Disposable {
  readonly #config: HealthTimes
  readonly #question: HealthCheck
  readonly #logger: Logger
  readonly #socket: Disposable | null
  readonly #disposed = new AbortController()
  /** The last failed check, or null while this process is healthy. */
  #complaint: string | null = null

  constructor(config: HealthTimes, { question, socket }: HealthQuestion, logger: Logger) {
    this.#config = config
    this.#question = question
    this.#socket = socket
    this.#logger = logger
  }

  /** The result for `join({ health })`: true or the last failure. */
  get report(): true | string {
    return this.#complaint ?? true
  }

  /** Resolves after `passes` successful checks in a row, or as soon as they are not `needed`. Rejects with ERR_FDB_UNHEALTHY, or when `signal` aborts. */
  async prove(signal: AbortSignal, needed: () => boolean): Promise<void> {
    const { passes, within } = this.#config
    const late = AbortSignal.timeout(within)
    const proved = new AbortController()
    const ends = AbortSignal.any([signal, this.#disposed.signal, late, proved.signal])
    let inARow = 0
    let asked = 0
    let lastFailure = ''
    await repeatCheck(
      this.#question,
      () => this.#config,
      ends,
      why => {
        asked++
        inARow = why === null ? inARow + 1 : 0
        if (why !== null) lastFailure = why
        if (inARow === passes || !needed()) proved.abort()
      },
    )
    if (proved.signal.aborted || !needed()) return
    signal.throwIfAborted()
    const often = `${passes} good answer${passes === 1 ? '' : 's'} in a row`
    const failure = lastFailure === '' ? `${this.#question.name}: no answer` : lastFailure
    throw new FdbError(
      'ERR_FDB_UNHEALTHY',
      `upgrade.health: not ${often} within ${within} ms (asked ${asked} times): ${failure}`,
      { details: { asked: this.#question.name, times: asked, last: failure } },
    )
  }

  /** Checks repeatedly as long as `needed` returns true. Afterwards, and after a dispose, the process counts as healthy. */
  watch(needed: () => boolean): void {
    const { signal } = this.#disposed
    const onAnswer = (why: string | null) => {
      if (!needed()) {
        this[Symbol.dispose]()
        return
      }
      if ((why === null) !== (this.#complaint === null)) {
        if (why === null) this.#logger.info({}, 'upgrade.health passes again')
        else
          this.#logger.warn(
            { why },
            'upgrade.health fails: if it keeps failing, the previous version takes over again',
          )
      }
      this.#complaint = why
    }
    void repeatCheck(this.#question, () => this.#config, signal, onAnswer)
  }

  [Symbol.dispose](): void {
    this.#complaint = null
    this.#disposed.abort()
    this.#socket?.[Symbol.dispose]()
  }
}

/** The listener of this process to check. The check connects to it directly, not through the socket that all versions share. */
export interface HealthTarget {
  readonly listener: { readonly server: Server; acceptOwn(connection: Socket): void }
  readonly tls: boolean
}

interface HealthQuestion {
  readonly question: HealthCheck
  readonly socket: Disposable | null
}

/** Creates the question of the configured kind, and loads only its modules. `target` is null if no listener takes requests. */
export async function healthQuestion(
  config: HealthConfig,
  target: HealthTarget | null,
): Promise<HealthQuestion> {
  const asked = askedOf(config)
  switch (asked.kind) {
    case 'http': {
      const { httpCheck: httpQuestion, privateHttpCheck: privateHttpQuestion } = await import(
        '../../probing/http-check.js'
      )
      const { connectionTo } = await import('../../probing/connection-to.js')
      const { url: path } = asked
      if (target === null || !path.startsWith('/')) return { question: httpQuestion(path), socket: null }
      const { listener, tls } = target
      const host = config.host ?? 'localhost'
      const connect = () => connectionTo(listener.server, socket => listener.acceptOwn(socket))
      return { question: privateHttpQuestion({ path, host, tls, connect }), socket: null }
    }
    case 'tcp': {
      const { tcpCheck: tcpQuestion } = await import('../../probing/health-check.js')
      return { question: tcpQuestion(asked.host, asked.port), socket: null }
    }
    case 'command': {
      const { commandCheck: commandQuestion } = await import('../../probing/shell.js')
      const { nodeShell } = await import('../../probing/shell.js')
      const { PrivateSocket } = await import('./private-socket.js')
      const socket = target && (await PrivateSocket.open(connection => target.listener.acceptOwn(connection)))
      const env = { FD_BROKER_PID: `${process.pid}`, ...(socket && { FD_BROKER_SOCKET: socket.path }) }
      return { question: commandQuestion(asked.text, nodeShell(env)), socket }
    }
  }
}

function askedOf({ http, tcp, command }: HealthConfig): CheckSpec {
  return (
    http !== null
      ? CHECK_PARSERS.http(http)
      : tcp !== null
        ? CHECK_PARSERS.tcp(tcp)
        : CHECK_PARSERS.command(command ?? '')
  )!
}
