import { FdbError } from '../errors.js'
import { memoryFile, type OwnedFd, writeAllAt } from '../kernel/index.js'
import { type ReadRequest, type SegmentsReply, STATE_COMMANDS } from '../state/commands.js'
import type { Position } from '../state/history.js'
import { Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'

/** Maximum number of retries if the service compacts its log during the copy. */
const MOST_MOVES = 5

export type AskCommand = (command: string, body: Uint8Array | string) => Promise<Buffer>

/** Called after each page with the number of bytes read so far, and of all bytes to read. */
export type OnRead = (done: number, total: number) => void

type SegmentEntry = SegmentsReply['segments'][number]

/** A copy of the serving process's log, from the time of the last {@link readNew}. Owns the copied segments. */
export class StateCopy implements Disposable {
  readonly log = new StateLog()

  /**
   * Reads the records since the last call, and resolves with the position of the service's log. Calls the `onChange` listeners of the
   * sections for each change; if the log was compacted or the service was restarted meanwhile, for each difference. May be called again
   * after a failure. Rejects as `ask` does, with ERR_FDB_STATE_DIGEST, and as {@link StateLog.adopt} does.
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
    const continues = held.every((segment, i) => isSame(segment, segments[i]))
    if (continues && (await this.#appendNew(fill, segments)) && !differs()) return position
    if (held.length > 0) await this.#rebuild(fill, segments)
    if (!differs()) return position
    const { sequence, digest } = this.log.position
    throw new FdbError(
      'ERR_FDB_STATE_DIGEST',
      `the copied log has digest ${digest} at sequence ${sequence}, but the service reports ` +
        `${position.digest} at ${position.sequence}. Export the state that you need, and restart the service`,
    )
  }

  /** Appends new records to the copy. Returns false if they do not fit: a restarted service may have another log with the same epochs. */
  async #appendNew(fill: Fill, listed: readonly SegmentEntry[]): Promise<boolean> {
    const { log } = this
    const known = log.segments.length
    try {
      for (const [i, each] of listed.entries()) {
        const held = log.segments[i]
        if (held === undefined) await log.adopt(await copyOf(each, fill))
        else if (!held.sealed) await fill(held.fd, held.size(), each)
        // The log reads a segment only if the one before it is sealed.
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

/** Appends to a copy, which has `present` bytes, the other bytes of the service's segment. */
type Fill = (fd: OwnedFd, present: number, listed: SegmentEntry) => Promise<void>

function filling(ask: AskCommand, segments: readonly SegmentEntry[], reading: OnRead): Fill {
  const total = segments.reduce((sum, { size }) => sum + size, 0)
  let done = 0
  return async (fd, present, { kind, epoch, size }) => {
    for (let from = present; from < size; ) {
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

/** Copies a segment. The caller owns the copy. */
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
    `the ${kind} segment of epoch ${epoch} ends at byte ${from}, but the service reported ${size} bytes: try again`,
  )
}
