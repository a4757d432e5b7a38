import { FdbError } from '../errors.js'
import { closeAll } from '../kernel/index.js'
import type { Link, WireBody } from '../protocol/link.js'
import { remoteError } from '../protocol/remote-error.js'
import { type CommandContext, type CommandOrder, failedReply, readCommand, repliedWith } from './command.js'

export interface UpgradeOrder {
  /** Empty: as the running one was started. */
  readonly argv: readonly string[]
  readonly timeoutMs: number
  /** Daemon: which service; empty: the only one. */
  readonly service: string
  /** End those first that block it. */
  readonly killStuck: boolean
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
  /** `cancel`: it is not wanted any more; the answer says what came of it. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded>
  command(order: CommandOrder, context: CommandContext): Promise<Uint8Array>
}

/** Questions of one operator that are under way; while there are so many, no further one is read. */
const MOST_AT_ONCE = 16

const CANCELLED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled by its operator' } as const

/**
 * Serves an operator's tool until it leaves. Its leaving does not undo what it asked for; a word does. One that asks faster than it
 * reads the answers is read no further.
 */
export function serveOperator(link: Link, operations: Operations): void {
  const gone = new AbortController()
  /** Of the upgrades under way. */
  const cancels = new Set<AbortController>()
  let underWay = 0
  /** Until the kernel has the answer. */
  const answer = (ask: () => Promise<WireBody>, failed: (error: unknown) => WireBody) => {
    if (++underWay === MOST_AT_ONCE) link.channel.pause()
    Promise.resolve()
      .then(ask)
      .catch(failed)
      .then(body => link.send(body))
      .catch(() => {})
      .finally(() => {
        if (underWay-- === MOST_AT_ONCE && link.open) link.channel.resume()
      })
  }
  const failed = (error: unknown): WireBody => {
    const { code, message, retryable } = FdbError.from(error)
    return { result: { ok: false, code, message, retryable } }
  }
  link.start({
    message: (envelope, fds) => {
      closeAll(fds)
      if (envelope.statusRequest) {
        answer(async () => ({ status: { json: JSON.stringify(await operations.status()) } }), failed)
      } else if (envelope.upgradeRequest) {
        const { argv, timeoutMs, service, killStuck } = envelope.upgradeRequest
        const order = {
          argv: argv ?? [],
          timeoutMs: timerMs(timeoutMs ?? 0),
          service: service ?? '',
          killStuck: killStuck ?? false,
        }
        const cancel = new AbortController()
        cancels.add(cancel)
        answer(async () => {
          const tell = (step: UpgradeProgress) => link.tell({ progress: step })
          try {
            const { pid, generation } = await operations.upgrade(order, tell, cancel.signal)
            return { result: { ok: true, pid, generation } }
          } finally {
            cancels.delete(cancel)
          }
        }, failed)
      } else if (envelope.cancelUpgrade) {
        for (const cancel of cancels) cancel.abort(remoteError(envelope.cancelUpgrade, CANCELLED))
      } else if (envelope.command) {
        const { order, request } = readCommand(envelope.command)
        answer(
          async () => ({
            commandReply: repliedWith(request, await operations.command(order, { signal: gone.signal })),
          }),
          error => ({ commandReply: failedReply(request, error) }),
        )
      }
    },
    broken: () => link.close(),
    end: () => gone.abort(),
  })
}

/** As long as a timer of Node can wait: it takes anything longer for one millisecond. */
function timerMs(ms: number): number {
  return ms > 0 ? Math.min(ms, 2 ** 31 - 1) : 0
}
