import { FdbError } from '../errors.js'
import { closeAll } from '../fd/owned.js'
import type { Link } from '../protocol/link.js'
import { type CommandContext, type CommandOrder, failedReply, readCommand, repliedWith } from './command.js'

export interface UpgradeOrder {
  /** Empty: as the running one was started. */
  readonly argv: readonly string[]
  readonly timeoutMs: number
  /** Daemon: which service; empty: the only one. */
  readonly service: string
}

export interface UpgradeProgress {
  readonly phase: string
  readonly at: number
  readonly pid: number
}

export interface Upgraded {
  readonly pid: number
  readonly generation: number
}

/** What an operator may ask for. */
export interface Operations {
  status(): object | Promise<object>
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    signal: AbortSignal,
  ): Promise<Upgraded>
  command(order: CommandOrder, context: CommandContext): Promise<Uint8Array>
}

/** Serves an operator's tool until it leaves. Its leaving does not undo what it asked for. */
export function serveOperator(link: Link, operations: Operations): void {
  const gone = new AbortController()
  const failed = (error: unknown) => {
    const { code, message, retryable } = FdbError.is(error)
      ? error
      : new FdbError('ERR_FDB_INTERNAL', String(error))
    link.tell({ result: { ok: false, code, message, retryable } })
  }
  link.start({
    message: (envelope, fds) => {
      closeAll(fds)
      if (envelope.statusRequest) {
        Promise.resolve()
          .then(() => operations.status())
          .then(status => link.tell({ status: { json: JSON.stringify(status) } }))
          .catch(failed)
      } else if (envelope.upgradeRequest) {
        const { argv, timeoutMs, service } = envelope.upgradeRequest
        const order = { argv: argv ?? [], timeoutMs: timeoutMs ?? 0, service: service ?? '' }
        Promise.resolve()
          .then(() => operations.upgrade(order, step => link.tell({ progress: step }), gone.signal))
          .then(({ pid, generation }) => link.tell({ result: { ok: true, pid, generation } }))
          .catch(failed)
      } else if (envelope.command) {
        const { order, request } = readCommand(envelope.command)
        Promise.resolve()
          .then(() => operations.command(order, { signal: gone.signal }))
          .then(reply => link.tell({ commandReply: repliedWith(request, reply) }))
          .catch(error => link.tell({ commandReply: failedReply(request, error) }))
      }
    },
    bundle: items => closeAll(items.map(item => item.fd)),
    broken: () => link.close(),
    end: () => gone.abort(),
  })
}
