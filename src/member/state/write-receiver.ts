import { FdbError } from '../../errors.js'
import { fdbroker } from '../../proto/wire.js'
import type { Answer, EntryRead, IncomingWrite } from '../../state/forwarded-write.js'
import type { StateLog } from '../../state/state-log.js'
import { remoteError, type WireBody } from '../../wire/link.js'

const { Outcome } = fdbroker.wire.Written
/** The most incomplete changes per link. */
const MOST_ARRIVING = 64
/** The most entries of `#answeredEarly` and of `#mustReconnect`; the oldest are dropped first. A daemon has at most this many sending processes. */
const MOST_REMEMBERED = 1_024
const NO_BYTES = new Uint8Array(0)

type Write = fdbroker.wire.Write.$Properties
type Written = fdbroker.wire.Written.$Properties

/**
 * Makes the changes that other processes forward over one link, in the order of their arrival. If a change of a process is answered "again",
 * so are all its later changes until that process reconnects, because a later change must not be made before an earlier one.
 */
export class WriteReceiver {
  readonly #log: StateLog
  readonly #send: (body: WireBody) => void
  /** The incomplete changes, by sending process and number. */
  readonly #arriving = new Map<string, IncomingWrite>()
  /** The changes that were answered before their last piece arrived, by the same key: later pieces of them are ignored. */
  readonly #answeredEarly = new Set<string>()
  /** The sending processes ({@link Write.source}) that must reconnect after the answer "again". A reconnected process has another number or link. */
  readonly #mustReconnect = new Set<number>()

  constructor(log: StateLog, send: (body: WireBody) => void) {
    this.#log = log
    this.#send = send
  }

  receive({
    number = 0,
    source = 0,
    request = '',
    parts = [],
    more = false,
    reads = [],
    durable,
  }: Write): void {
    const key = `${source} ${number}`
    // No more pieces follow: the sending process has left, or got its answer.
    if (request === '') {
      this.#arriving.delete(key)
      this.#answeredEarly.delete(key)
      return
    }
    if (this.#answeredEarly.has(key)) {
      if (!more) this.#answeredEarly.delete(key)
      return
    }
    const started = this.#arriving.get(key)
    this.#arriving.delete(key)
    const end = (answer: Answer) => {
      if (more) remember(this.#answeredEarly, key)
      this.#answer(number, source, answer)
    }
    const tooMany = more && started === undefined && this.#arriving.size >= MOST_ARRIVING
    if (tooMany || this.#mustReconnect.has(source ?? 0)) {
      end({ outcome: 'again' })
      return
    }
    const arriving = started ?? this.#log.incoming()
    try {
      for (const part of parts ?? []) arriving.add(part)
    } catch (error) {
      end({ outcome: 'refused', error: FdbError.from(error) })
      return
    }
    if (more) {
      this.#arriving.set(key, arriving)
      return
    }
    void this.#log
      .accept(arriving, {
        request: request ?? '',
        reads: (reads ?? []).map(readOf),
        durable: durable ?? false,
      })
      .then(end)
  }

  #answer(number: number | null, source: number | null, answer: Answer): void {
    if (answer.outcome === 'again') remember(this.#mustReconnect, source ?? 0)
    this.#send({ written: { number: number ?? 0, ...packAnswer(answer) } })
  }
}

function remember<T>(memory: Set<T>, what: T): void {
  memory.add(what)
  if (memory.size > MOST_REMEMBERED) memory.delete(memory.values().next().value!)
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
      return { outcome: 'refused', error: refusalOf(written) }
    default:
      return { outcome: 'again' }
  }
}

/** Marks a durable change that failed with ERR_FDB_STATE_FILE as made: only the write to disk may have failed. */
function refusalOf(written: Written): FdbError {
  const details = written.code === 'ERR_FDB_STATE_FILE' ? { made: true } : {}
  const otherwise = { code: 'ERR_FDB_REJECTED', message: 'the change was refused' } as const
  return remoteError({ ...written, details }, otherwise)
}
