import { FdbError } from '../errors.js'
import { readAt } from '../kernel/index.js'
import { addVersions, type ChangeRun } from './change-run.js'
import type { Digest } from './digest.js'
import { type KeyMap, NONE } from './key-map.js'
import { type Location, Locations } from './locations.js'
import { ReadAhead, type ReadSegment } from './read-ahead.js'
import { damagedError } from './reader.js'
import { emptyChange, scanChange } from './records.js'
import type { SectionStore } from './section-store.js'

const SMALL_CHANGE = 64 * 1024

/** The locations of all sections' entries. Each change also updates the counts, sums of bytes and digests. */
export class Entries {
  readonly segments = new Map<number, ReadSegment>()
  locations = new Locations()
  /** Earlier locations of the entries that the newest segment has replaced or deleted. A compaction needs them to merge the state before that segment. */
  displaced = new Locations()
  newest = 0
  count = 0
  liveBytes = 0
  /** Ordinal of the newest segment with a secret that was later replaced or deleted, or -1. */
  staleSecrets = -1
  /** Called when {@link staleSecrets} has risen. */
  onStaleSecret: (() => void) | null = null
  /** See {@link setRun}. */
  replaced = new Uint32Array(0)
  #added = new Uint32Array(0)
  readonly #readAhead = new ReadAhead()
  readonly #scanned = emptyChange()
  readonly #at: Location = { segment: 0, offset: 0, length: 0 }
  readonly #scratch = Buffer.allocUnsafeSlow(SMALL_CHANGE)

  /** Stores a new location for `key`. `slot` is the key's slot, if the key exists. The caller adds the new entry to the digest. */
  put(
    section: SectionStore,
    key: string,
    slot: number | undefined,
    { segment, offset, length }: Location,
  ): void {
    if (slot === undefined) {
      section.slots.add(key, this.locations.add(segment, offset, length))
      this.count++
    } else {
      this.#displaceEntry(section, slot, segment)
      this.locations.set(slot, segment, offset, length)
    }
    this.#addBytes(section, length)
  }

  /** Puts the entries of consecutive changes, in their order. `base` is the offset of the run's buffer in the segment. No bulk of the section may be merging. */
  putRun(section: SectionStore, run: ChangeRun, ordinal: number, base: number): void {
    for (let from = 0; from < run.count; ) {
      const { done, bytes } = this.setRun(section.slots, run, from, ordinal, base)
      for (let i = 0; i < done; i++) {
        const slot = this.replaced[i]!
        if (slot === NONE) {
          this.count++
          continue
        }
        this.#displaceEntry(section, slot, ordinal)
        this.locations.remove(slot)
      }
      section.digest.addRun(section.nameBytes, run, from, done)
      addVersions(section.versions, run, from, done)
      this.#addBytes(section, bytes)
      from += done
    }
  }

  /**
   * Gives the changes of a run from number `from` on new slots, and sets their keys in `map` to these. Writes the values before to {@link replaced}. Returns how
   * many are done, and the bytes of these changes: not all if memory is short; throws if there is none for the first.
   */
  setRun(
    map: Pick<KeyMap<number | null>, 'setAll'>,
    run: ChangeRun,
    from: number,
    ordinal: number,
    base: number,
  ): { done: number; bytes: number } {
    const { ranges, first, firstRange } = run
    const count = run.count - from
    if (this.#added.length < count) {
      this.#added = new Uint32Array(count)
      this.replaced = new Uint32Array(count)
    }
    this.locations.addAll(ordinal, base, ranges, firstRange + from, count, this.#added)
    let done = 0
    try {
      done = map.setAll(run, first + from, count, this.#added, this.replaced)
    } finally {
      for (let i = done; i < count; i++) this.locations.remove(this.#added[i]!)
    }
    let bytes = 0
    for (let i = 2 * (firstRange + from); i < 2 * (firstRange + from + done); i += 2)
      bytes += ranges[i + 1]! - ranges[i]!
    return { done, bytes }
  }

  remove(section: SectionStore, key: string, slot: number, ordinal: number): void {
    this.#displaceEntry(section, slot, ordinal)
    this.locations.remove(slot)
    section.slots.delete(key)
    this.count--
  }

  #displaceEntry(section: SectionStore, slot: number, ordinal: number): void {
    const at = this.subtract(section, slot, section.digest)
    this.#addBytes(section, -at.length)
    this.#recordDisplaced(section, at, ordinal)
  }

  #addBytes(section: SectionStore, bytes: number): void {
    section.bytes += bytes
    this.liveBytes += bytes
  }

  #recordDisplaced({ stored, schema }: SectionStore, at: Location, ordinal: number): void {
    const { segment, offset, length } = at
    if (segment !== ordinal && ordinal === this.newest) this.displaced.add(segment, offset, length)
    if (!(stored?.secret || schema?.secret) || segment <= this.staleSecrets) return
    this.staleSecrets = segment
    this.onStaleSecret?.()
  }

  /** Frees the slot of an entry that a change in segment `ordinal` has displaced. The caller has updated sums and digest. */
  free(section: SectionStore, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    this.locations.remove(slot)
  }

  /** Replaces the displaced entry of `slot` by the entry of slot `from`, which it frees. The caller has updated sums and digest. */
  move(section: SectionStore, from: number, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    const { segment, offset, length } = this.locations.get(from, this.#at)
    this.locations.set(slot, segment, offset, length)
    this.locations.remove(from)
  }

  /** Subtracts a slot's entry from a digest. Returns its location, valid until the next call. */
  subtract(section: SectionStore, slot: number, digest: Digest): Location {
    const at = this.locations.get(slot, this.#at)
    const buffer = this.#readChange(at)
    const { start } = this.#readAhead
    const { keyStart, keyEnd, valueStart, valueEnd } = scanChange(
      buffer,
      start,
      start + at.length,
      this.#scanned,
    )
    digest.remove(section.nameBytes, buffer.subarray(keyStart, keyEnd), buffer.subarray(valueStart, valueEnd))
    return at
  }

  /** Returns the location of a slot's entry, or null if the section has no listeners or the key no entry. */
  locate({ listeners }: SectionStore, slot: number | undefined): Location | null {
    if (listeners.size === 0 || slot === undefined) return null
    return { ...this.locations.get(slot, this.#at) }
  }

  /** Returns a copy of the value of a slot. */
  read(section: SectionStore, key: string, slot: number): { value: Buffer; version: number } {
    return this.readAt(section, key, this.locations.get(slot, this.#at))
  }

  /** Returns a copy of the value at a location that an entry has, or had before this turn's changes. */
  readAt(section: SectionStore, key: string, at: Location): { value: Buffer; version: number } {
    const buffer = this.#findEntry(section, key, at)
    const { valueStart, valueEnd, version } = this.#scanned
    return { value: copyOf(buffer, valueStart, valueEnd), version }
  }

  /** Returns the result of `is` for the value of a slot, without copying the value. */
  testValue(
    section: SectionStore,
    key: string,
    slot: number,
    is: (bytes: Buffer, start: number, end: number) => boolean,
  ): boolean {
    const buffer = this.#findEntry(section, key, this.locations.get(slot, this.#at))
    return is(buffer, this.#scanned.valueStart, this.#scanned.valueEnd)
  }

  /** Returns the buffer with the entry of `key` and sets `#scanned`. Throws ERR_FDB_STATE_DAMAGED if the location has another entry. */
  #findEntry(section: SectionStore, key: string, at: Location): Buffer {
    const buffer = this.#readChange(at)
    const { start } = this.#readAhead
    const change = scanChange(buffer, start, start + at.length, this.#scanned)
    const { keyStart, keyEnd, sectionStart, sectionEnd } = change
    if (section.isNamed(buffer, sectionStart, sectionEnd) && isText(buffer, keyStart, keyEnd, key))
      return buffer
    const { segment } = this.#heldSegment(at)
    throw damagedError(
      segment,
      at.offset,
      undefined,
      'another entry is at the location where this one was read before',
    )
  }

  /** Reads an encoded Change into `into`. */
  load(at: Location, into: Buffer): void {
    this.#checkRead(at, this.#readAhead.read(this.#heldSegment(at), at, into))
  }

  /** Returns a buffer with an encoded Change, which begins at `#readAhead.start`. Valid until the next call. */
  #readChange(at: Location): Buffer {
    const held = this.#heldSegment(at)
    const block = this.#readAhead.find(held, at)
    if (block !== null) return block
    const { offset, length } = at
    const into = length <= SMALL_CHANGE ? this.#scratch : Buffer.allocUnsafeSlow(length)
    this.#checkRead(at, readAt(held.segment.fd, into, 0, length, offset))
    return into
  }

  #heldSegment(at: Location): ReadSegment {
    const held = this.segments.get(at.segment)!
    if (held.segment.fd.closed) throw closedError()
    return held
  }

  #checkRead(at: Location, got: number): void {
    if (got === at.length) return
    const reason = `${got} bytes of an entry of ${at.length}; the file was cut`
    throw damagedError(this.#heldSegment(at).segment, at.offset, undefined, reason)
  }
}

const COPIED_BY_LOOP = 64

function copyOf(bytes: Buffer, start: number, end: number): Buffer {
  const length = end - start
  const copy = Buffer.allocUnsafe(length)
  if (length > COPIED_BY_LOOP) bytes.copy(copy, 0, start, end)
  else for (let i = 0; i < length; i++) copy[i] = bytes[start + i]!
  return copy
}

/** Compares UTF-8 bytes with a string. Decodes the bytes only if they are not ASCII. */
function isText(buffer: Buffer, start: number, end: number, text: string): boolean {
  const { length } = text
  if (end - start !== length) return buffer.toString('utf8', start, end) === text
  for (let i = 0; i < length; i++) {
    const byte = buffer[start + i]!
    if (byte >= 0x80) return buffer.toString('utf8', start, end) === text
    if (byte !== text.charCodeAt(i)) return false
  }
  return true
}

export function closedError(): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_CLOSED',
    'the state is closed: its member was closed or has left the service; read it earlier, or join() again',
  )
}
