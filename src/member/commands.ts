import { wrongOption } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import type { MemberPhase } from '../handoff/phases.js'
import type { CommandContext, CommandHandler } from '../operator/requests.js'
import { asBuffer } from '../operator/requests.js'

/** The operators' commands of one application. */
export class Commands {
  readonly #handlers = new Map<string, CommandHandler>()

  set(name: string, handler: CommandHandler): void {
    if (!/^[\x21-\x7e]{1,128}$/.test(name)) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `${JSON.stringify(name)} is no name of a command: give 1 to 128 visible characters`,
      )
    }
    if (typeof handler !== 'function') throw wrongOption('handler', handler, 'a function')
    if (this.#handlers.has(name)) {
      throw new FdbError('ERR_FDB_OPTION', `the command "${name}" has a handler already: give it one`)
    }
    this.#handlers.set(name, handler)
  }

  /** Only who serves answers: ERR_FDB_FENCED (retryable) sends the operator to the one that does. */
  async run(name: string, body: Buffer, context: CommandContext, phase: MemberPhase): Promise<Buffer> {
    if (phase !== 'serving' && phase !== 'frozen' && phase !== 'unfit') {
      throw new FdbError(
        'ERR_FDB_FENCED',
        `process ${process.pid} does not serve (it is ${phase}): ask again, for the one that does`,
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
