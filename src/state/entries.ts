import { FdbError } from '../errors.js'
import { readAt } from '../kernel/index.js'
import type { Digest } from './digest.js'
import type { KeyBytes } from './key-bytes.js'
import { type Location, Locations } from './locations.js'
import { ReadAhead, type ReadSegment } from './read-ahead.js'
import { damaged } from './reader.js'
import { emptyChange, scanChange } from './records.js'
import type { SectionStore } from './section-store.js'

const SMALL_CHANGE = 64 * 1024

/** The locations of all sections' entries, with sums and digests that changes keep up to date. */
export class Entries {
  readonly segments = new Map<number, ReadSegment>()
  locations = new Locations()
  /** Former locations of entries that the newest segment has displaced: compaction needs the state at the end of the segments before. */
  displaced = new Locations()
  newest = 0
  count = 0
  liveBytes = 0
  /** The newest segment with a secret that was replaced or deleted since; -1: none. */
  staleSecrets = -1
  /** {@link staleSecrets} has risen. */
  onStaleSecret: (() => void) | null = null
  readonly #readAhead = new ReadAhead()
  readonly #scanned = emptyChange()
  readonly #at: Location = { segment: 0, offset: 0, length: 0 }
  readonly #scratch = Buffer.allocUnsafeSlow(SMALL_CHANGE)

  /** Takes the contents of another index, which must not be used any more. Values in former segments are readable until those are released. */
  takeOver(other: Entries): void {
    for (const [ordinal, held] of other.segments) this.segments.set(ordinal, held)
    this.locations = other.locations
    this.displaced = other.displaced
    this.newest = other.newest
    this.count = other.count
    this.liveBytes = other.liveBytes
    this.staleSecrets = other.staleSecrets
  }

  /** The caller adds the new entry to the digest. `slot`: the key's, if it has one. */
  put(
    section: SectionStore,
    key: KeyBytes,
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

  remove(section: SectionStore, key: KeyBytes, slot: number, ordinal: number): void {
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

  /** Frees the slot of an entry that a change in segment `ordinal` has displaced; sums and digest are up to date. */
  free(section: SectionStore, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    this.locations.remove(slot)
  }

  /** The same; the entry of slot `from` replaces it. */
  move(section: SectionStore, from: number, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    const { segment, offset, length } = this.locations.get(from, this.#at)
    this.locations.set(slot, segment, offset, length)
    this.locations.remove(from)
  }

  /** Subtracts a slot's entry from a digest. Returns its location, valid until the next call. */
  subtract(section: SectionStore, slot: number, digest: Digest): Location {
    const at = this.locations.get(slot, this.#at)
    const found = this.#readChange(at)
    const { start } = this.#readAhead
    const { keyStart, keyEnd, valueStart, valueEnd } = scanChange(
      found,
      start,
      start + at.length,
      this.#scanned,
    )
    digest.remove(section.nameBytes, found.subarray(keyStart, keyEnd), found.subarray(valueStart, valueEnd))
    return at
  }

  /** The location of a slot's entry, for listeners; null: no listener, or no entry. */
  locate({ listeners }: SectionStore, slot: number | undefined): Location | null {
    if (listeners.size === 0 || slot === undefined) return null
    return { ...this.locations.get(slot, this.#at) }
  }

  /** Reads the value of a slot from its segment, as a copy. */
  read(section: SectionStore, key: string, slot: number): { value: Buffer; version: number } {
    return this.readAt(section, key, this.locations.get(slot, this.#at))
  }

  /** As {@link read}, at a location that an entry has, or had before this turn's changes. */
  readAt(section: SectionStore, key: string, at: Location): { value: Buffer; version: number } {
    const found = this.#findEntry(section, key, at)
    const { valueStart, valueEnd, version } = this.#scanned
    return { value: copyOf(found, valueStart, valueEnd), version }
  }

  /** Calls `is` with the value of a slot, in place. */
  testValue(
    section: SectionStore,
    key: string,
    slot: number,
    is: (bytes: Buffer, start: number, end: number) => boolean,
  ): boolean {
    const found = this.#findEntry(section, key, this.locations.get(slot, this.#at))
    return is(found, this.#scanned.valueStart, this.#scanned.valueEnd)
  }

  /** As {@link #readChange}; sets `#scanned`. */
  #findEntry(section: SectionStore, key: string, at: Location): Buffer {
    const found = this.#readChange(at)
    const { start } = this.#readAhead
    const change = scanChange(found, start, start + at.length, this.#scanned)
    const { keyStart, keyEnd, sectionStart, sectionEnd } = change
    if (section.isNamed(found, sectionStart, sectionEnd) && isText(found, keyStart, keyEnd, key)) return found
    const { segment } = this.#heldSegment(at)
    throw damaged(segment, at.offset, undefined, 'another entry lies where this one was read before')
  }

  /** Reads an encoded Change to the start of `into`. */
  load(at: Location, into: Buffer): void {
    this.#checkRead(at, this.#readAhead.read(this.#heldSegment(at), at, into))
  }

  /** Returns the buffer of an encoded Change, which starts at `start` of {@link ReadAhead}. Valid until the next call. */
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
    if (held.segment.fd.closed) throw closed()
    return held
  }

  #checkRead(at: Location, got: number): void {
    if (got === at.length) return
    const why = `${got} bytes of an entry of ${at.length}; the file was cut`
    throw damaged(this.#heldSegment(at).segment, at.offset, undefined, why)
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

/** Compares bytes with a text; most keys are ASCII, which needs no string of the bytes. */
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

export function closed(): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_CLOSED',
    'the state is closed: its member was closed, or has left; read it before, or join() again',
  )
}
