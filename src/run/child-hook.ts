import { constants } from 'node:os'
import type { Logger } from '../base/logger.js'
import type { EventLog } from '../events/event-log.js'
import type { StartHook } from '../holder/hook-command.js'
import { Hooks } from '../holder/hooks.js'
import { type ChildStarter, shellStart } from '../probing/shell.js'
import { exitCodeText } from './failures.js'
import type { RunningVersion } from './running-version.js'

/** The hooks of a supervisor, which are those of its program. */
export class RunHooks {
  /** The version that serves, or has served last. */
  server: RunningVersion | undefined
  readonly #givenUp = new AbortController()
  readonly #hooks: Hooks

  constructor(events: EventLog, logger: Logger, children: ChildStarter) {
    const { signal: givenUp } = this.#givenUp
    const settings = () => this.server?.settings.hooks ?? null
    this.#hooks = new Hooks(events, {
      logger,
      settings,
      startCommand: childHook(children, givenUp),
      givenUp,
    })
  }

  get isRunning(): boolean {
    return this.#hooks.isRunning
  }

  /** Kills the hook that runs, and leaves out those that wait: an order to end at once. */
  giveUp(): void {
    this.#givenUp.abort()
  }

  /** Resolves when all hooks have ended, in a later turn: also those of what is recorded in this one, as the failure of a request is. */
  async ended(): Promise<void> {
    await new Promise(setImmediate)
    await new Promise<void>(resolve => this.#hooks.whenDone(resolve))
  }
}

/**
 * Starts hooks as children of a process that reaps all its children. The kernel kills the shell of a hook when this process ends; an abort of `givenUp` kills
 * its process group.
 */
function childHook(children: ChildStarter, givenUp: AbortSignal): StartHook {
  return (command, env) => {
    const start = shellStart(`exec </dev/null >/dev/null\n${command}`, env)
    const deathSignal = constants.signals.SIGKILL
    let pid = 0
    const ended = new Promise<string | null>(resolve => {
      pid = children.start({ ...start, fds: [], deathSignal }, code =>
        resolve(code === 0 ? null : exitCodeText(code)),
      )
    })
    const kill = () => children.kill(pid)
    givenUp.addEventListener('abort', kill)
    return { ended: ended.finally(() => givenUp.removeEventListener('abort', kill)), kill }
  }
}
