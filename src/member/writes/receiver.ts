import { FdbError } from '../../errors.js'
import { fdbroker } from '../../proto/wire.js'
import type { Answer, EntryRead, IncomingWrite } from '../../state/forwarded-write.js'
import type { StateLog } from '../../state/state-log.js'
import { remoteError, type WireBody } from '../../wire/link.js'

const { Outcome } = fdbroker.wire.Written
/** Changes that have come in part, of one link. */
const MOST_ARRIVING = 64
/** A daemon has at most this many authors; the oldest remembered ones are dropped first. */
const MOST_REMEMBERED = 1_024
const NO_BYTES = new Uint8Array(0)

type Write = fdbroker.wire.Write.$Properties
type Written = fdbroker.wire.Written.$Properties

/**
 * Makes the changes that other processes forward over one link, in the order in which they come. An author that was refused once is refused
 * until it connects again: a later change of it must not be made before an earlier one.
 */
export class WriteReceiver {
  readonly #log: StateLog
  readonly #tell: (body: WireBody) => void
  /** Changes that have come in part, by source and number. */
  readonly #arriving = new Map<string, IncomingWrite>()
  /** Changes that were answered before their last piece: what still comes of them is no other change. */
  readonly #cut = new Set<string>()
  readonly #sentAway = new Set<number>()

  constructor(log: StateLog, tell: (body: WireBody) => void) {
    this.#log = log
    this.#tell = tell
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
    // No more of it comes: its author has gone, or was answered.
    if (request === '') {
      this.#arriving.delete(key)
      this.#cut.delete(key)
      return
    }
    if (this.#cut.has(key)) {
      if (!more) this.#cut.delete(key)
      return
    }
    const begun = this.#arriving.get(key)
    this.#arriving.delete(key)
    const end = (answer: Answer) => {
      if (more) remember(this.#cut, key)
      this.#answer(number, source, answer)
    }
    const tooMany = more && begun === undefined && this.#arriving.size >= MOST_ARRIVING
    if (tooMany || this.#sentAway.has(source ?? 0)) {
      end({ outcome: 'again' })
      return
    }
    const arriving = begun ?? this.#log.incoming()
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
    if (answer.outcome === 'again') remember(this.#sentAway, source ?? 0)
    this.#tell({ written: { number: number ?? 0, ...packAnswer(answer) } })
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

/** One code says that the change was made: only a durable one ends so, when it is not known to be on the disk. */
function refusalOf(written: Written): FdbError {
  const details = written.code === 'ERR_FDB_STATE_FILE' ? { made: true } : {}
  const otherwise = { code: 'ERR_FDB_REJECTED', message: 'the change was refused' } as const
  return remoteError({ ...written, details }, otherwise)
}
