import { FdbError } from '../errors.js'
import { memoryFile, type OwnedFd, writeAllAt } from '../kernel/index.js'
import { type ReadRequest, type SegmentsReply, STATE_COMMANDS } from '../state/commands.js'
import type { Position } from '../state/history.js'
import { Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'

/** So often the log may be compacted while it is read. */
const MOST_MOVES = 5

export type AskCommand = (command: string, body: Uint8Array | string) => Promise<Buffer>

/** Told of bytes that were read, of all. */
export type OnRead = (done: number, total: number) => void

type SegmentEntry = SegmentsReply['segments'][number]

/** The log of the process that serves, as it was when it was last looked at. Owns the copy. */
export class StateCopy implements Disposable {
  readonly log = new StateLog()

  /**
   * Reads what has come since, page by page; resolves with where the service says that it stands. Listeners are told of it; where the
   * log was compacted meanwhile, or the service has begun anew, of what is different. After a failure it may be called again. Rejects as
   * `ask` does, with ERR_FDB_STATE_DIGEST, and as {@link StateLog.adopt} does.
   */
  async readNew(ask: AskCommand, reading: OnRead = () => {}): Promise<Position> {
    for (let moves = 0; ; moves++) {
      try {
        return await this.#readOnce(ask, reading)
      } catch (error) {
        if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_MOVED' || moves >= MOST_MOVES) throw error
      }
    }
  }

  async #readOnce(ask: AskCommand, reading: OnRead): Promise<Position> {
    const reply = await ask(STATE_COMMANDS.segments, '')
    const { position, segments } = JSON.parse(reply.toString()) as SegmentsReply
    const fill = filling(ask, segments, reading)
    const held = this.log.segments
    const differs = () =>
      this.log.position.digest !== position.digest || this.log.sequence !== position.sequence
    const goesOn = held.every((segment, i) => isSame(segment, segments[i]))
    if (goesOn && (await this.#appendNew(fill, segments)) && !differs()) return position
    if (held.length > 0) await this.#rebuild(fill, segments)
    if (!differs()) return position
    const { sequence, digest } = this.log.position
    throw new FdbError(
      'ERR_FDB_STATE_DIGEST',
      `the log of the service adds up to ${digest} at sequence ${sequence}; the service has ` +
        `${position.digest} at ${position.sequence}. Export what you need, and restart the service`,
    )
  }

  /** False: it is another log than the one that was read, under the same numbers. */
  async #appendNew(fill: Fill, listed: readonly SegmentEntry[]): Promise<boolean> {
    const { log } = this
    const known = log.segments.length
    try {
      for (const [i, each] of listed.entries()) {
        const held = log.segments[i]
        if (held === undefined) await log.adopt(await copyOf(each, fill))
        else if (!held.sealed) await fill(held.fd, held.size(), each)
        // Only then what follows it is read.
        if (i < listed.length - 1) log.segments[i]!.seal()
      }
      await log.catchUp()
      return true
    } catch (error) {
      if (known > 0 && FdbError.is(error) && error.code === 'ERR_FDB_STATE_DAMAGED') return false
      throw error
    }
  }

  async #rebuild(fill: Fill, listed: readonly SegmentEntry[]): Promise<void> {
    const segments: Segment[] = []
    try {
      for (const each of listed) {
        segments.at(-1)?.seal()
        segments.push(await copyOf(each, fill))
      }
    } catch (error) {
      for (const segment of segments) segment.close()
      throw error
    }
    await this.log.rebuild(segments)
  }

  [Symbol.dispose](): void {
    this.log.close()
  }
}

function isSame(held: Segment, listed: SegmentEntry | undefined): boolean {
  if (listed?.kind !== held.kind || listed.epoch !== held.epoch) return false
  return held.sealed || listed.size >= held.size()
}

/** Writes the bytes of a segment, as the service gives them, behind those that are there. */
type Fill = (fd: OwnedFd, there: number, listed: SegmentEntry) => Promise<void>

function filling(ask: AskCommand, segments: readonly SegmentEntry[], reading: OnRead): Fill {
  const total = segments.reduce((sum, { size }) => sum + size, 0)
  let done = 0
  return async (fd, there, { kind, epoch, size }) => {
    for (let from = there; from < size; ) {
      const request: ReadRequest = { kind, epoch, from }
      const page = await ask(STATE_COMMANDS.read, JSON.stringify(request))
      const length = Math.min(page.length, size - from)
      if (length === 0) throw truncatedError(kind, epoch, from, size)
      writeAllAt(fd, page.subarray(0, length), from)
      from += length
      done += length
      reading(done, total)
    }
  }
}

/** The caller's own. */
async function copyOf(listed: SegmentEntry, fill: Fill): Promise<Segment> {
  const fd = memoryFile('fdb-state-copy', 'a copy of a state segment')
  try {
    await fill(fd, 0, listed)
  } catch (error) {
    fd.close()
    throw error
  }
  return Segment.open(fd)
}

function truncatedError(kind: string, epoch: number, from: number, size: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_DAMAGED',
    `the ${kind} segment of epoch ${epoch} ends at ${from}, not at ${size} as the service said; try again`,
  )
}
