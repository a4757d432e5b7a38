import { InOrder } from '../../base/in-order.js'
import { wrongOption } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { asBuffer, type CommandContext, type CommandHandler } from '../../operator/requests.js'
import {
  noStandbyError,
  processReply,
  RELOAD,
  ROLLBACK,
  readStopOrder,
  rollbackBy,
  STOP,
} from '../../operator/service-commands.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'
import type { Announcer } from './announcer.js'

export class Commands {
  readonly #handlers = new Map<string, CommandHandler>()

  set(name: string, handler: CommandHandler): void {
    if (!/^[\x21-\x7e]{1,128}$/.test(name)) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `${JSON.stringify(name)} is not a valid command name: give 1 to 128 visible ASCII characters`,
      )
    }
    if (typeof handler !== 'function') throw wrongOption('handler', handler, 'a function')
    if (this.#handlers.has(name)) {
      throw new FdbError('ERR_FDB_OPTION', `the command "${name}" already has a handler`)
    }
    this.#handlers.set(name, handler)
  }

  /** Runs a command. Throws ERR_FDB_FENCED (retryable) if another process serves, and the signal's reason if its sender has gone. */
  async run(name: string, body: Buffer, context: CommandContext, phase: MemberPhase): Promise<Buffer> {
    context.signal.throwIfAborted()
    if (phase !== 'serving' && phase !== 'frozen' && phase !== 'unfit') {
      throw new FdbError(
        'ERR_FDB_FENCED',
        `process ${process.pid} does not serve (phase ${phase}): connect again to reach the process that does`,
        { retryable: true, phase },
      )
    }
    const handler = this.#handlers.get(name)
    if (handler === undefined) {
      const known = [...this.#handlers.keys()].join(', ') || 'none'
      throw new FdbError(
        'ERR_FDB_COMMAND_UNKNOWN',
        `this service has no command ${JSON.stringify(name.slice(0, 128))} (it has: ${known})`,
      )
    }
    const reply = await handler(body, context)
    return typeof reply === 'string' ? Buffer.from(reply) : asBuffer(reply)
  }
}

/** The application's hook that reloads its configuration. */
export class Reloading {
  readonly #announcer: Announcer
  readonly #order = new InOrder()
  #hook: (() => unknown) | null = null

  constructor(announcer: Announcer) {
    this.#announcer = announcer
  }

  set(hook: () => unknown): void {
    if (typeof hook !== 'function') throw wrongOption('hook', hook, 'a function')
    if (this.#hook !== null)
      throw new FdbError('ERR_FDB_OPTION', 'onReload() was already called: a member has one reload hook')
    this.#hook = hook
  }

  /** Runs the hook. Concurrent calls run it one after the other. If `gone` aborts before its turn, rejects with the signal's reason. */
  async run(gone?: AbortSignal): Promise<void> {
    const hook = this.#hook
    if (hook === null) {
      throw new FdbError(
        'ERR_FDB_COMMAND_UNKNOWN',
        'this service cannot reload, because it has not called onReload(): upgrade it instead',
      )
    }
    await this.#order.run(() => this.#announcer.reload(hook), gone)
  }
}

/** The reply to `rollback` waits at most this long for the process to reach `leaving`. */
const LEAVING_MS = 10_000

interface ServiceCommandsDeps {
  readonly generation: number
  readonly machine: Pick<Machine, 'phase'>
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly heartbeat: Pick<Heartbeat, 'beat'>
  readonly hosting: Pick<Hosting, 'hearStandby' | 'standsBy' | 'unfitStandby'>
  readonly commands: Pick<Commands, 'set'>
  readonly reloading: Pick<Reloading, 'run'>
  readonly timing: TakeoverTiming
  /** Ends the service. */
  stop(timeout: number | null): Promise<void>
  rollBack(): Promise<void>
}

/** Handles the commands of every service: `fd-broker reload`, `rollback` and `stop`. */
export function serveServiceCommands(deps: ServiceCommandsDeps): void {
  const { changes, commands, generation, heartbeat, hosting, machine, reloading, shutdown, timing } = deps
  const noStandby = () => {
    const overMs = timing.sinceMs('offered') === null ? null : timing.sinceMs('released')
    return noStandbyError(`process ${process.pid} (generation ${generation})`, hosting.unfitStandby, overMs)
  }
  const reply = () => processReply({ pid: process.pid, generation })
  commands.set(RELOAD, async (_body, { signal }) => {
    await reloading.run(signal)
    return reply()
  })
  commands.set(ROLLBACK, async (_body, { by, signal }) => {
    await hosting.hearStandby?.()
    signal.throwIfAborted()
    if (!hosting.standsBy) throw noStandby()
    shutdown.requestedBy = rollbackBy(by)
    heartbeat.beat()
    void deps.rollBack()
    const leaves = () => shutdown.over || machine.phase === 'leaving' || machine.phase === 'gone'
    const servesOn = () => !leaves() && !shutdown.closing
    await changes.until(() => leaves() || servesOn(), LEAVING_MS)
    if (servesOn()) throw noStandby()
    return reply()
  })
  commands.set(STOP, async body => {
    const { timeoutMs } = readStopOrder(body)
    // The reply is sent first, in this turn of the event loop.
    setImmediate(() => void deps.stop(timeoutMs))
    return reply()
  })
}
