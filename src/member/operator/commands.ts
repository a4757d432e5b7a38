import { types } from 'node:util'
import { inspected, wrongOption } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import { EVENTS_COMMAND, readEventsBody } from '../../events/events.js'
import { orderFacts } from '../../events/requester.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { asBuffer, type CommandContext, type CommandHandler } from '../../operator/requests.js'
import {
  ORDER_EVENTS,
  processReply,
  RELOAD,
  ROLLBACK,
  readStopOrder,
  STOP,
  type StopOrder,
} from '../../operator/service-commands.js'
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
  readonly events: Pick<EventLog, 'note' | 'read'>
  reload(gone: AbortSignal): Promise<void>
  rollBack(context: CommandContext): Promise<void>
  /** Refuses a next version, which would serve on after an order to end. The returned function ends the service. */
  stop(order: StopOrder): () => Promise<void>
}

/** Handles the commands of every service: `fd-broker reload`, `rollback` and `stop`. */
export function serveServiceCommands({
  commands,
  events,
  origin,
  reload,
  rollBack,
  stop,
}: ServiceCommandsDeps): void {
  const reply = () => processReply({ pid: process.pid, generation: origin.generation })
  const set = (name: string, handler: CommandHandler) =>
    commands.set(name, async (body, context) => {
      // A daemon that forwards an order has recorded it, and knows its sender.
      const { by } = context
      if (by !== undefined) events.note(ORDER_EVENTS.get(name)!, orderFacts(by))
      return await handler(body, context)
    })
  commands.set(EVENTS_COMMAND, async body => JSON.stringify(events.read(readEventsBody(body))))
  set(RELOAD, async (_body, context) => {
    await reload(context.signal)
    return reply()
  })
  set(ROLLBACK, async (_body, context) => {
    await rollBack(context)
    return reply()
  })
  set(STOP, async body => {
    // Before the reply: a moment later the commit to a next version may be sent.
    const end = stop(readStopOrder(body))
    // The reply is sent first, in this turn of the event loop.
    setImmediate(() => void end())
    return reply()
  })
}
