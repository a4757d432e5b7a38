import { types } from 'node:util'
import { inspected, wrongOption } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { asBuffer, type CommandContext, type CommandHandler } from '../../operator/requests.js'
import { processReply, RELOAD, ROLLBACK, readStopOrder, STOP } from '../../operator/service-commands.js'
import type { Origin } from '../lifecycle/process-machine.js'

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
    const reply: unknown = await handler(body, context)
    if (reply !== undefined && reply !== null && typeof reply !== 'string' && !types.isUint8Array(reply))
      throw new FdbError(
        'ERR_FDB_OPTION',
        `the handler of the command "${name}" returned ${inspected(reply)}; return bytes, a text or nothing`,
      )
    return typeof reply === 'string' ? Buffer.from(reply) : asBuffer(reply)
  }
}

interface ServiceCommandsDeps {
  readonly origin: Pick<Origin, 'generation'>
  readonly commands: Pick<Commands, 'set'>
  reload(gone: AbortSignal): Promise<void>
  rollBack(context: CommandContext): Promise<void>
  /** Ends the service. */
  stop(timeout: number | null): Promise<void>
}

/** Handles the commands of every service: `fd-broker reload`, `rollback` and `stop`. */
export function serveServiceCommands({
  commands,
  origin,
  reload,
  rollBack,
  stop,
}: ServiceCommandsDeps): void {
  const reply = () => processReply({ pid: process.pid, generation: origin.generation })
  commands.set(RELOAD, async (_body, { signal }) => {
    await reload(signal)
    return reply()
  })
  commands.set(ROLLBACK, async (_body, context) => {
    await rollBack(context)
    return reply()
  })
  commands.set(STOP, async body => {
    const { timeoutMs } = readStopOrder(body)
    // The reply is sent first, in this turn of the event loop.
    setImmediate(() => void stop(timeoutMs))
    return reply()
  })
}
