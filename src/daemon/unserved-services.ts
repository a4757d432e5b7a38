import type { ChildProcess } from 'node:child_process'
import { isDeepStrictEqual } from 'node:util'
import { backoffMs, IN_BACKGROUND } from '../base/backoff.js'
import type { Logger } from '../base/logger.js'
import { MAIN_PROCESS } from '../os/command-line.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { spawnShell } from '../probing/shell.js'
import type { Unserved } from './policy/policy.js'

export interface UnservedDeps {
  readonly control: string
  readonly logger: Logger
  /** Null: a service without members is held. */
  rule(service: string): Unserved | null
  isUnserved(service: string): boolean
  /** The service is to be no more, and what it has. */
  end(service: string): void
}

/** A service without members. */
interface Waiting {
  /** Its rule; another rule starts again. */
  readonly rule: Unserved
  timer: NodeJS.Timeout | undefined
  runs: number
}

/** Applies the rules for services without members, when they have lacked one for long enough. */
export class UnservedServices {
  readonly #deps: UnservedDeps
  readonly #waiting = new Map<string, Waiting>()

  constructor(deps: UnservedDeps) {
    this.#deps = deps
  }

  /** Something about it has changed, or its rule. */
  update(service: string): void {
    const rule = this.#deps.rule(service)
    const waiting = this.#waiting.get(service)
    if (rule === null && waiting === undefined) return
    const unserved = rule !== null && this.#deps.isUnserved(service)
    // The same rule, read anew, goes on.
    if (unserved && isDeepStrictEqual(waiting?.rule, rule)) return
    clearTimeout(waiting?.timer)
    this.#waiting.delete(service)
    if (!unserved) return
    const next: Waiting = { rule, timer: undefined, runs: 0 }
    this.#waiting.set(service, next)
    this.#after(rule.afterMs, service, next)
  }

  /** Commands that were started go on. It may be used again. */
  close(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
  }

  #after(ms: number, service: string, waiting: Waiting): void {
    waiting.timer = setTimeout(() => this.#act(service, waiting), ms).unref()
  }

  #act(service: string, waiting: Waiting): void {
    const { end, logger } = this.#deps
    const { act, afterMs } = waiting.rule
    if (act === 'close') {
      this.#waiting.delete(service)
      logger.warn({ service, afterMs }, 'nobody serves: the service ends, with what the daemon held of it')
      end(service)
      return
    }
    this.#run(act.run, service, waiting)
  }

  #run(command: string, service: string, waiting: Waiting): void {
    const { control, logger } = this.#deps
    waiting.runs++
    logger.info({ service, command, run: waiting.runs }, 'nobody serves: the command is run')
    const over = (facts: object) => {
      if (this.#waiting.get(service) !== waiting) return
      const ms = backoffMs(IN_BACKGROUND, waiting.runs)
      logger.warn(
        { service, command, ...facts, againMs: ms },
        'nobody serves still, and the command has ended, or could not be started',
      )
      this.#after(ms, service, waiting)
    }
    let child: ChildProcess
    try {
      const own = { [MAIN_PROCESS]: undefined, FD_BROKER_SERVICE: service, FD_BROKER_CONTROL: control }
      const env = { ...process.env, ...NO_MANAGER_VARIABLES, ...own }
      // A session of its own: a signal to the daemon's does not end the member that the command starts.
      child = spawnShell(command, env, ['ignore', 'ignore', 'inherit'])
    } catch (err) {
      over({ err })
      return
    }
    child.unref()
    child.on('error', err => over({ err }))
    child.on('exit', (exitCode, signal) => over({ exitCode, signal }))
  }
}
