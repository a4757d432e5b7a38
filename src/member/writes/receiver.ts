import { FdbError } from '../../errors.js'
import { fdbroker } from '../../proto/wire.js'
import type { WireBody } from '../../protocol/link.js'
import { remoteError } from '../../protocol/remote-error.js'
import type { EntryRead } from '../../state/entry-mark.js'
import type { Answer, ArrivingWrite } from '../../state/forwarded.js'
import type { StateLog } from '../../state/state-log.js'

const { Outcome } = fdbroker.wire.Written
/** Changes that have come in part, of one link. */
const MOST_ARRIVING = 64
const NO_BYTES = new Uint8Array(0)

type Write = fdbroker.wire.Write.$Properties
type Written = fdbroker.wire.Written.$Properties

/**
 * Makes the changes that other processes forward over one link, in the order in which they come. Whoever was sent away once is sent
 * away until it connects anew: a later change of it must not be made before an earlier one.
 */
export class WriteReceiver {
  readonly #log: StateLog
  readonly #tell: (body: WireBody) => void
  /** Changes that have come in part, by source and number. */
  readonly #arriving = new Map<string, ArrivingWrite>()
  readonly #sentAway = new Set<number>()

  constructor(log: StateLog, tell: (body: WireBody) => void) {
    this.#log = log
    this.#tell = tell
  }

  take({ number = 0, source = 0, request = '', parts = [], more = false, reads = [], durable }: Write): void {
    const key = `${source} ${number}`
    const arriving = this.#arriving.get(key) ?? this.#begin(key)
    this.#arriving.delete(key)
    // The author has gone in the middle of the change.
    if (request === '') return
    try {
      for (const part of parts ?? []) arriving.add(part)
    } catch (error) {
      this.#answer(number, source, refused(error))
      return
    }
    if (more) {
      this.#arriving.set(key, arriving)
      return
    }
    if (this.#sentAway.has(source ?? 0)) this.#answer(number, source, { outcome: 'again' })
    else
      void this.#log
        .accept(arriving, {
          request: request ?? '',
          reads: (reads ?? []).map(readOf),
          durable: durable ?? false,
        })
        .then(answer => this.#answer(number, source, answer))
  }

  #begin(key: string): ArrivingWrite {
    if (this.#arriving.size >= MOST_ARRIVING) {
      const oldest = this.#arriving.keys().next().value
      if (oldest !== undefined) this.#arriving.delete(oldest)
    }
    const arriving = this.#log.arriving()
    this.#arriving.set(key, arriving)
    return arriving
  }

  #answer(number: number | null, source: number | null, answer: Answer): void {
    if (answer.outcome === 'again') this.#sentAway.add(source ?? 0)
    this.#tell({ written: { number: number ?? 0, ...packAnswer(answer) } })
  }
}

function refused(error: unknown): Answer {
  return {
    outcome: 'refused',
    error: FdbError.from(error),
  }
}

function readOf({ section, key, mark }: fdbroker.wire.EntryRead.$Properties): EntryRead {
  return { section: section ?? '', key: key ?? '', mark: mark ?? NO_BYTES }
}

function packAnswer(answer: Answer): Written {
  switch (answer.outcome) {
    case 'applied':
      return { outcome: Outcome.APPLIED, existed: answer.existed, sequence: answer.sequence }
    case 'conflict':
      return { outcome: Outcome.CONFLICT, sequence: answer.sequence }
    case 'again':
      return { outcome: Outcome.AGAIN }
    case 'refused': {
      const { code, message, retryable } = answer.error
      return { outcome: Outcome.REFUSED, code, message, retryable }
    }
  }
}

export function unpackAnswer(written: Written): Answer {
  const { outcome, existed, sequence } = written
  switch (outcome) {
    case Outcome.APPLIED:
      return { outcome: 'applied', existed: existed ?? false, sequence: sequence ?? 0 }
    case Outcome.CONFLICT:
      return { outcome: 'conflict', sequence: sequence ?? 0 }
    case Outcome.REFUSED:
      return {
        outcome: 'refused',
        error: remoteError(written, { code: 'ERR_FDB_REJECTED', message: 'the change was refused' }),
      }
    default:
      return { outcome: 'again' }
  }
}
