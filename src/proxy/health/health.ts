import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { withinLimit } from '../../base/limited-signal.js'
import { FOLDER_MODES } from '../../base/socket-modes.js'
import { FdbError, type Logger } from '../../index.js'
import {
  CHECK_PARSERS,
  type CheckSpec,
  type HealthCheck,
  HealthJudge,
  repeatCheck,
  tcpCheck,
} from '../../probing/health-check.js'
import { temporaryFolder } from '../../probing/temporary-folder.js'
import type { HealthConfig } from '../config/health.js'

type HealthTimes = Pick<HealthConfig, 'interval' | 'passes' | 'timeout' | 'within'>

/** Checks the health of this process before the commit, and while the previous version stands by. Owns the private socket of a `command` check. */
export class HealthChecker implements Disposable {
  readonly #config: HealthTimes
  readonly #check: HealthCheck
  readonly #logger: Logger
  readonly #socket: Disposable | null
  readonly #disposed = new AbortController()
  /** Judges this process while it serves: a version that serves counts as well until a check fails. */
  #serving = servingJudge()

  constructor(config: HealthTimes, { check, socket }: PreparedCheck, logger: Logger) {
    this.#config = config
    this.#check = check
    this.#socket = socket
    this.#logger = logger
  }

  /** The result for `join({ health })`: true or the last failure. */
  get report(): true | string {
    return this.#serving.last ?? true
  }

  /** Resolves after `passes` successful checks in a row, or after a check if `needed` returns false. Rejects with ERR_FDB_UNHEALTHY after `within` ms, or when `signal` aborts. */
  async waitUntilHealthy(signal: AbortSignal, needed: () => boolean): Promise<void> {
    const { passes, within } = this.#config
    const passed = new AbortController()
    const judge = new HealthJudge(passes)
    let checks = 0
    let lastFailure = ''
    const hear = (why: string | null) => {
      checks++
      if (why !== null) lastFailure = why
      if (judge.hear(why) === 'ready' || !needed()) passed.abort()
    }
    await withinLimit(signal, within, async limited => {
      const ends = AbortSignal.any([limited, this.#disposed.signal, passed.signal])
      await repeatCheck(this.#check, () => this.#config, ends, hear)
    })
    if (passed.signal.aborted || !needed()) return
    signal.throwIfAborted()
    const failure = lastFailure === '' ? `${this.#check.name}: no answer` : lastFailure
    throw new FdbError(
      'ERR_FDB_UNHEALTHY',
      `upgrade.health: ${checks} checks within ${within} ms, but not ${passes} successful in a row: ${failure}`,
      { details: { asked: this.#check.name, times: checks, last: failure } },
    )
  }

  /** Checks repeatedly as long as `needed` returns true. Afterwards, and after a dispose, the process counts as healthy. */
  watch(needed: () => boolean): void {
    const { signal } = this.#disposed
    const onResult = (why: string | null) => {
      if (!needed()) {
        this[Symbol.dispose]()
        return
      }
      const change = this.#serving.hear(why)
      if (change === 'well again') this.#logger.info({}, 'upgrade.health passes again')
      else if (change === 'unwell')
        this.#logger.warn(
          { why },
          'upgrade.health fails: if it keeps failing, the previous version takes over again',
        )
    }
    void repeatCheck(this.#check, () => this.#config, signal, onResult)
  }

  [Symbol.dispose](): void {
    this.#serving = servingJudge()
    this.#disposed.abort()
    this.#socket?.[Symbol.dispose]()
  }
}

function servingJudge(): HealthJudge {
  const judge = new HealthJudge(1)
  judge.markReady()
  return judge
}

/** The listener of this process to check. The check connects to it directly, not through the socket that all versions share. */
export interface HealthTarget {
  readonly listener: { readonly server: Server; acceptOwn(connection: Socket): void }
  readonly tls: boolean
}

interface PreparedCheck {
  readonly check: HealthCheck
  readonly socket: Disposable | null
}

/** Creates the configured kind of check, and loads only its modules. `target` is null if no listener takes requests. */
export async function prepareCheck(
  config: HealthConfig,
  target: HealthTarget | null,
): Promise<PreparedCheck> {
  const probe = parseCheck(config)
  switch (probe.kind) {
    case 'http': {
      const { httpCheck, privateHttpCheck } = await import('../../probing/http-check.js')
      const { connectionTo } = await import('../../probing/connection-to.js')
      const { url: path } = probe
      if (target === null || !path.startsWith('/')) return { check: httpCheck(path), socket: null }
      const { listener, tls } = target
      const host = config.host ?? 'localhost'
      const connect = () => connectionTo(listener.server, socket => listener.acceptOwn(socket))
      return { check: privateHttpCheck({ path, host, tls, connect }), socket: null }
    }
    case 'tcp':
      return { check: tcpCheck(probe.host, probe.port), socket: null }
    case 'command': {
      const { commandCheck, nodeShell } = await import('../../probing/shell.js')
      const socket = target && (await PrivateSocket.open(connection => target.listener.acceptOwn(connection)))
      const env = { FD_BROKER_PID: `${process.pid}`, ...(socket && { FD_BROKER_SOCKET: socket.path }) }
      return { check: commandCheck(probe.text, nodeShell(env)), socket }
    }
  }
}

function parseCheck({ http, tcp, command }: HealthConfig): CheckSpec {
  return (
    http !== null
      ? CHECK_PARSERS.http(http)
      : tcp !== null
        ? CHECK_PARSERS.tcp(tcp)
        : CHECK_PARSERS.command(command ?? '')
  )!
}

/** A Unix socket on which only this process accepts, for the command of a health check. Only this process's user can access its folder. */
class PrivateSocket implements Disposable {
  readonly path: string
  readonly #folder: string
  readonly #server: Server

  private constructor(folder: string, server: Server) {
    this.#folder = folder
    this.path = join(folder, 'socket')
    this.#server = server
  }

  /** Rejects if the folder or the socket cannot be created. */
  static async open(onConnection: (socket: Socket) => void): Promise<PrivateSocket> {
    const folder = temporaryFolder()
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, onConnection)
    const opened = new PrivateSocket(folder, server)
    try {
      chmodSync(folder, FOLDER_MODES.private)
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(opened.path, resolve)
      })
      server.on('error', () => {})
      return opened
    } catch (error) {
      opened[Symbol.dispose]()
      throw error
    }
  }

  /** Open connections continue. */
  [Symbol.dispose](): void {
    this.#server.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
