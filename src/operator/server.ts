import { FdbError } from '../errors.js'
import { closeAll } from '../kernel/index.js'
import type { fdbroker } from '../proto/wire.js'
import { type Link, remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import { type DescriptorAnswer, DescriptorRequests } from './descriptor-requests.js'
import {
  type CommandContext,
  commandAnswer,
  failedAnswer,
  failedCommandAnswer,
  type Operations,
  readCommand,
  readUpgrade,
  upgradedAnswer,
} from './requests.js'

/** Questions of one operator that are under way; while there are so many, no further one is read. */
const MOST_AT_ONCE = 16

const CANCELLED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled by its operator' } as const

/** Decodes what is asked over one connection, an operator's or a daemon's that passes it on, and words the answers. */
export class RequestHandler {
  readonly #operations: Operations
  readonly #tell: (body: WireBody) => void
  readonly #by: CommandContext['by']
  readonly #over = new AbortController()
  /** One for each upgrade under way. */
  readonly #cancels = new Set<AbortController>()

  /** `tell`: what is said before the answer. */
  constructor(operations: Operations, tell: (body: WireBody) => void, by?: CommandContext['by']) {
    this.#by = by
    this.#operations = operations
    this.#tell = tell
  }

  /** Resolves with what is to be sent back, never rejects; null: it is no request. */
  answer({ statusRequest, upgradeRequest, command }: WireEnvelope): Promise<WireBody> | null {
    if (statusRequest) return this.#status()
    if (upgradeRequest) return this.#upgrade(upgradeRequest)
    return command ? this.#command(command) : null
  }

  /** The upgrades under way are not wanted any more. */
  cancelUpgrades(reason: FdbError): void {
    for (const cancel of this.#cancels) cancel.abort(reason)
  }

  /** The answer is not awaited any more. That does not undo the request. Idempotent. */
  close(why: string): void {
    this.#over.abort(new FdbError('ERR_FDB_ABORTED', why))
  }

  async #status(): Promise<WireBody> {
    try {
      return { status: { json: JSON.stringify(await this.#operations.status()) } }
    } catch (error) {
      return failedAnswer(0, error)
    }
  }

  async #upgrade(asked: fdbroker.wire.UpgradeRequest.$Properties): Promise<WireBody> {
    const request = asked.request ?? 0
    const cancel = new AbortController()
    this.#cancels.add(cancel)
    try {
      const progress = (step: fdbroker.wire.Progress.$Properties) => this.#tell({ progress: step })
      return upgradedAnswer(
        request,
        await this.#operations.upgrade(readUpgrade(asked), progress, cancel.signal),
      )
    } catch (error) {
      return failedAnswer(request, error)
    } finally {
      this.#cancels.delete(cancel)
    }
  }

  async #command(asked: fdbroker.wire.Command.$Properties): Promise<WireBody> {
    const request = asked.request ?? 0
    try {
      const { signal } = this.#over
      const by = this.#by
      const context = { signal, ...(by && { by }) }
      return commandAnswer(request, await this.#operations.command(readCommand(asked), context))
    } catch (error) {
      return failedCommandAnswer(request, error)
    }
  }
}

/**
 * Serves an operator's tool until it leaves. Its leaving does not undo what it asked for; a word does. One that asks faster than it
 * reads the answers is read no further. `idleMs`: one that asks nothing for so long, waits for no answer, watches nothing and has no claim is sent away; null: none is.
 */
export function serveOperator(link: Link, operations: Operations, idleMs: number | null = null): void {
  const requests = new RequestHandler(operations, body => link.post(body), link.channel.peer)
  const descriptors = new DescriptorRequests(link, operations.descriptors)
  let underWay = 0
  let idle: NodeJS.Timeout | undefined
  const rest = () => {
    clearTimeout(idle)
    if (idleMs !== null && link.open) idle = setTimeout(late, idleMs).unref()
  }
  const late = () => {
    if (underWay > 0 || descriptors.lasting) return rest()
    link.close()
    left()
  }
  const left = () => {
    clearTimeout(idle)
    requests.close('the operator has left')
    descriptors.close()
  }
  const send = (answer: Promise<DescriptorAnswer>) => {
    if (++underWay === MOST_AT_ONCE) link.channel.pause()
    // Until the kernel has it.
    answer
      .then(({ body, fds }) => link.send(body, fds).finally(() => closeAll(fds)))
      .catch(() => {})
      .finally(() => {
        if (underWay-- === MOST_AT_ONCE && link.open) link.channel.resume()
        rest()
      })
  }
  rest()
  link.start({
    message: (envelope, fds) => {
      rest()
      const { cancelUpgrade, descriptorRequest } = envelope
      if (descriptorRequest) send(Promise.resolve(descriptors.answer(descriptorRequest, fds)))
      closeAll(fds)
      if (cancelUpgrade) requests.cancelUpgrades(remoteError(cancelUpgrade, CANCELLED))
      const answer = requests.answer(envelope)
      if (answer !== null) send(answer.then(body => ({ body, fds: [] })))
    },
    broken: () => {
      link.close()
      left()
    },
    end: left,
  })
}
