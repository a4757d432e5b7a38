import { afterReading } from '../base/after-reading.js'
import { InOrder } from '../base/in-order.js'
import { withinLimit } from '../base/limited-signal.js'
import type { Logger } from '../base/logger.js'
import { type HookName, type HookSettings, WEBHOOK } from '../checks/hooks.js'
import type { EventLog } from '../events/event-log.js'
import type { ServiceEvent } from '../events/events.js'
import { MAIN_PROCESS } from '../os/command-line.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { detachedHook, type StartHook } from './hook-command.js'
import type { HookGroup } from './hook-group.js'

/** At most this many outcomes wait for the hooks of earlier ones; further ones run none. */
const MOST_WAITING = 8

const NEVER = new AbortController().signal

interface HooksDeps {
  readonly logger: Logger
  settings(): HookSettings | null
  /** Absent unless the service is a worker. */
  readonly group?: HookGroup | undefined
  /** Default: {@link detachedHook}. */
  readonly startCommand?: StartHook
  /** An abort ends the hook that runs, if it is a webhook, and leaves out those that wait. */
  readonly givenUp?: AbortSignal
}

/**
 * Runs the hooks of a service in the process that decides about its upgrades, and so has recorded their events: one hook for each outcome, one after the
 * other. No handoff waits for a hook. If this process ends by itself, its hook is killed.
 */
export class Hooks {
  readonly #events: EventLog
  readonly #deps: HooksDeps
  /** The upgrade of this worker is one of the {@link HookGroup}. */
  #isUnderWay = false
  readonly #inOrder = new InOrder()
  #waiting = 0
  #last: Promise<void> = Promise.resolve()
  /** A rollback that has started, and whose previous version does not serve yet. */
  #rollback: ServiceEvent | null = null
  /** The failure of the upgrade under way has had its hook, or gets that of a rollback. */
  #failed = false

  /** Owns the log. */
  constructor(events: EventLog, deps: HooksDeps) {
    this.#events = events
    this.#deps = deps
    events.recorded = event => this.#handle(event)
  }

  /** Closes the log when all hooks have ended. */
  close(): void {
    this.#setUnderWay(false)
    this.whenDone(() => this.#events.close())
  }

  /** Whether a hook runs, or waits for another one. */
  get isRunning(): boolean {
    return this.#waiting > 0
  }

  /** Calls `act` when all hooks have ended, also those that begin meanwhile: at once if none runs. */
  whenDone(act: () => void): void {
    if (!this.isRunning) act()
    else void this.#last.then(() => this.whenDone(act))
  }

  #handle(event: ServiceEvent): void {
    switch (event.type) {
      case 'upgrade.ordered':
        this.#failed = false
        this.#setUnderWay(true)
        break
      case 'handoff.kept':
      case 'version.kept':
        this.#add('success', event)
        break
      case 'handoff.failed':
        this.#failed = true
        this.#add('failure', event)
        break
      case 'upgrade.failed':
        if (!this.#failed) this.#add('failure', event)
        break
      // The worker that was to be replaced has ended.
      case 'service.unserved':
        this.#setUnderWay(false)
        break
      case 'rollback.started':
        this.#failed = true
        this.#rollback = event
        break
      // Under fd-broker run. Whether the previous version can be started again is not known yet.
      case 'version.failed':
        if (event.phase === 'serving') this.#rollback = event
        break
      case 'rollback.serving': {
        const { code, reason, process = event.process } = this.#rollback ?? {}
        if (this.#rollback !== null)
          this.#add('rollback', { ...event, code, reason, process } as ServiceEvent)
        this.#rollback = null
      }
    }
  }

  #setUnderWay(isUnderWay: boolean): void {
    const { group } = this.#deps
    if (group === undefined || isUnderWay === this.#isUnderWay) return
    this.#isUnderWay = isUnderWay
    if (isUnderWay) group.begin()
    else group.end()
  }

  #add(name: HookName, event: ServiceEvent): void {
    const { group } = this.#deps
    if (group === undefined) this.#start(name, event)
    else group.add(name, event, (name, event) => this.#start(name, event))
    this.#setUnderWay(false)
  }

  #start(name: HookName, event: ServiceEvent): void {
    const { givenUp = NEVER, logger, settings, startCommand = detachedHook } = this.#deps
    const { [name]: hook, timeout = 0 } = settings() ?? {}
    if (hook === undefined) return
    if (this.#waiting >= MOST_WAITING) {
      logger.warn({ hook: name, waiting: MOST_WAITING }, 'a hook is left out: earlier ones have not ended')
      return
    }
    this.#waiting++
    const { service } = event
    const body = JSON.stringify({ hook: name, ...event })
    this.#last = this.#inOrder.run(async () => {
      // The phase that the event has begun comes first.
      await new Promise(setImmediate)
      let why: string | null = 'this process is told to end at once'
      if (!givenUp.aborted)
        why = await (WEBHOOK.test(hook)
          ? post(hook, body, timeout, givenUp)
          : runCommand(startCommand, hook, { service, body, timeout }))
      if (why === null) logger.info({ hook: name, event: event.number }, 'a hook has ended')
      else logger.warn({ hook: name, event: event.number, why }, 'a hook has failed')
      this.#events.note(why === null ? 'hook.ended' : 'hook.failed', {
        hook: name,
        ...(why !== null && { reason: why }),
      })
      this.#waiting--
    })
  }
}

/** Resolves with null, or with why it failed. */
async function post(
  url: string,
  body: string,
  timeout: number,
  givenUp: AbortSignal,
): Promise<string | null> {
  try {
    return await withinLimit(givenUp, timeout, async signal => {
      const headers = { 'content-type': 'application/json' }
      const answer = await fetch(url, { method: 'POST', body, headers, signal, redirect: 'error' })
      await answer.body?.cancel()
      return answer.ok ? null : `the webhook answered ${answer.status}`
    })
  } catch (error) {
    const { cause, message, name } = error as Error
    if (name === 'TimeoutError') return lateText('the webhook has not answered', timeout)
    return `the webhook was not reached: ${cause instanceof Error ? cause.message || cause.name : message}`
  }
}

async function runCommand(
  start: StartHook,
  command: string,
  { service, body, timeout }: { readonly service: string; readonly body: string; readonly timeout: number },
): Promise<string | null> {
  const own = { [MAIN_PROCESS]: undefined, FD_BROKER_SERVICE: service, FD_BROKER_EVENT: body }
  const env = { ...process.env, ...NO_MANAGER_VARIABLES, ...own }
  try {
    const child = await start(command, env)
    let isLate = false
    const limit = afterReading(timeout, () => {
      isLate = true
      child.kill()
    })
    const how = await child.ended.finally(() => limit.clear())
    if (isLate) return lateText('the command was killed: it has not ended', timeout)
    return how === null ? null : `the command ended ${how}`
  } catch (error) {
    return `the command could not be started: ${error instanceof Error ? error.message : error}`
  }
}

function lateText(what: string, timeout: number): string {
  return `${what} within ${timeout} ms`
}
