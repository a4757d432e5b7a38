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
  /** Returns the rule of the service, or null if the daemon waits for the next member. */
  rule(service: string): Unserved | null
  isUnserved(service: string): boolean
  /** Ends the service and closes everything that it has. */
  end(service: string): void
}

/** A service without members. */
interface UnservedService {
  /** The rule that is being applied; a different rule restarts the delay. */
  readonly rule: Unserved
  timer: NodeJS.Timeout | undefined
  runs: number
}

/** Applies the rules for services that have had no member for longer than the rule's delay. */
export class UnservedServices {
  readonly #deps: UnservedDeps
  readonly #waiting = new Map<string, UnservedService>()

  constructor(deps: UnservedDeps) {
    this.#deps = deps
  }

  /** Starts or stops the delay of a service after a change of the service or of its rule. */
  update(service: string): void {
    const rule = this.#deps.rule(service)
    const waiting = this.#waiting.get(service)
    if (rule === null && waiting === undefined) return
    const unserved = rule !== null && this.#deps.isUnserved(service)
    // An equal rule, as after a reload, does not restart the delay.
    if (unserved && isDeepStrictEqual(waiting?.rule, rule)) return
    clearTimeout(waiting?.timer)
    this.#waiting.delete(service)
    if (!unserved) return
    const next: UnservedService = { rule, timer: undefined, runs: 0 }
    this.#waiting.set(service, next)
    this.#schedule(rule.afterMs, service, next)
  }

  /** Cancels all delays; running commands continue. update() may follow. */
  close(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
  }

  #schedule(ms: number, service: string, waiting: UnservedService): void {
    waiting.timer = setTimeout(() => this.#act(service, waiting), ms).unref()
  }

  #act(service: string, waiting: UnservedService): void {
    const { end, logger } = this.#deps
    const { act, afterMs } = waiting.rule
    if (act === 'close') {
      this.#waiting.delete(service)
      logger.warn(
        { service, afterMs },
        'no member serves: the daemon ends the service and closes its descriptors',
      )
      end(service)
      return
    }
    this.#run(act.run, service, waiting)
  }

  #run(command: string, service: string, waiting: UnservedService): void {
    const { control, logger } = this.#deps
    waiting.runs++
    logger.info({ service, command, run: waiting.runs }, 'no member serves: the daemon runs the command')
    const onEnd = (facts: object) => {
      if (this.#waiting.get(service) !== waiting) return
      const ms = backoffMs(IN_BACKGROUND, waiting.runs)
      logger.warn(
        { service, command, ...facts, againMs: ms },
        'no member serves yet, and the command has ended or could not be started',
      )
      this.#schedule(ms, service, waiting)
    }
    let child: ChildProcess
    try {
      const own = { [MAIN_PROCESS]: undefined, FD_BROKER_SERVICE: service, FD_BROKER_CONTROL: control }
      const env = { ...process.env, ...NO_MANAGER_VARIABLES, ...own }
      // spawnShell() starts a new session, so that a signal to the daemon's session does not end the member that the command starts.
      child = spawnShell(command, env, ['ignore', 'ignore', 'inherit'])
    } catch (err) {
      onEnd({ err })
      return
    }
    child.unref()
    child.on('error', err => onEnd({ err }))
    child.on('exit', (exitCode, signal) => onEnd({ exitCode, signal }))
  }
}
