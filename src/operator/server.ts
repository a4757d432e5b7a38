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

/** Maximum number of requests of one operator that are being handled; further ones are not read until one of these is answered. */
const MOST_AT_ONCE = 16

const CANCELLED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled by its operator' } as const

/** Decodes and runs the requests of one connection, from an operator or from a daemon that forwards them, and encodes the answers. */
export class RequestHandler {
  readonly #operations: Operations
  readonly #notify: (body: WireBody) => void
  readonly #by: CommandContext['by']
  readonly #closed = new AbortController()
  /** One controller per running upgrade. */
  readonly #cancels = new Set<AbortController>()

  /** `notify` sends messages before the answer, such as the progress. */
  constructor(operations: Operations, notify: (body: WireBody) => void, by?: CommandContext['by']) {
    this.#by = by
    this.#operations = operations
    this.#notify = notify
  }

  /** Resolves with the answer and never rejects. Returns null if the message is not a request. */
  answer({ statusRequest, upgradeRequest, command }: WireEnvelope): Promise<WireBody> | null {
    if (statusRequest) return this.#status()
    if (upgradeRequest) return this.#upgrade(upgradeRequest)
    return command ? this.#command(command) : null
  }

  cancelUpgrades(reason: FdbError): void {
    for (const cancel of this.#cancels) cancel.abort(reason)
  }

  /** Aborts the signal of running commands, because the peer no longer waits for answers. Does not undo requests. Idempotent. */
  close(reason: string): void {
    this.#closed.abort(new FdbError('ERR_FDB_ABORTED', reason))
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
      const progress = (step: fdbroker.wire.Progress.$Properties) => this.#notify({ progress: step })
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
      const { signal } = this.#closed
      const by = this.#by
      const context = { signal, ...(by && { by }) }
      return commandAnswer(request, await this.#operations.command(readCommand(asked), context))
    } catch (error) {
      return failedCommandAnswer(request, error)
    }
  }
}

/**
 * Serves an operator's tool until it disconnects, which does not undo its requests; only an explicit message cancels them. Stops reading from a tool
 * that sends requests faster than it reads the answers. After `idleMs` disconnects a tool that sends nothing, waits for no answer, watches nothing
 * and has no claim.
 */
export function serveOperator(link: Link, operations: Operations, idleMs: number | null = null): void {
  const requests = new RequestHandler(operations, body => link.post(body), link.channel.peer)
  const descriptors = new DescriptorRequests(link, operations.descriptors)
  let pending = 0
  let idleTimer: NodeJS.Timeout | undefined
  const restartIdleTimer = () => {
    clearTimeout(idleTimer)
    if (idleMs !== null && link.open) idleTimer = setTimeout(onIdle, idleMs).unref()
  }
  const onIdle = () => {
    if (pending > 0 || descriptors.lasting) return restartIdleTimer()
    link.close()
    onEnd()
  }
  const onEnd = () => {
    clearTimeout(idleTimer)
    requests.close('the operator has disconnected')
    descriptors.close()
  }
  const send = (answer: Promise<DescriptorAnswer>) => {
    if (++pending === MOST_AT_ONCE) link.channel.pause()
    // The request is pending until the kernel has accepted the answer.
    answer
      .then(({ body, fds }) => link.send(body, fds).finally(() => closeAll(fds)))
      .catch(() => {})
      .finally(() => {
        if (pending-- === MOST_AT_ONCE && link.open) link.channel.resume()
        restartIdleTimer()
      })
  }
  restartIdleTimer()
  link.start({
    message: (envelope, fds) => {
      restartIdleTimer()
      const { cancelUpgrade, descriptorRequest } = envelope
      if (descriptorRequest) send(Promise.resolve(descriptors.answer(descriptorRequest, fds)))
      closeAll(fds)
      if (cancelUpgrade) requests.cancelUpgrades(remoteError(cancelUpgrade, CANCELLED))
      const answer = requests.answer(envelope)
      if (answer !== null) send(answer.then(body => ({ body, fds: [] })))
    },
    broken: () => {
      link.close()
      onEnd()
    },
    end: onEnd,
  })
}
