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

/** Where the entries of all sections lie, and what a change that displaces one costs the sums and the digests. */
export class Entries {
  readonly segments = new Map<number, ReadSegment>()
  locations = new Locations()
  /** Where entries lay that changes of the newest segment displaced: compaction needs the exact state at the end of those before it. */
  displaced = new Locations()
  /** The ordinal of the newest segment that has records. */
  newest = 0
  count = 0
  /** Bytes of the encoded changes that are still in force. */
  liveBytes = 0
  /** The newest segment that holds a secret which was replaced or deleted since; -1: none does. */
  staleSecrets = -1
  /** {@link staleSecrets} has risen. */
  onStaleSecret: (() => void) | null = null
  readonly #readAhead = new ReadAhead()
  readonly #scanned = emptyChange()
  readonly #at: Location = { segment: 0, offset: 0, length: 0 }
  readonly #scratch = Buffer.allocUnsafeSlow(SMALL_CHANGE)

  /** Takes the contents of another index, which must not be used afterwards. Values in the former segments can be read until these are left. */
  takeOver(other: Entries): void {
    for (const [ordinal, held] of other.segments) this.segments.set(ordinal, held)
    this.locations = other.locations
    this.displaced = other.displaced
    this.newest = other.newest
    this.count = other.count
    this.liveBytes = other.liveBytes
    this.staleSecrets = other.staleSecrets
  }

  /** The digest of what is put is the caller's to add. `slot`: of the key; undefined: it has none. */
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

  /** The entry of this slot was displaced by a change in segment `ordinal`, which is in the sums and the digest already. */
  free(section: SectionStore, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    this.locations.remove(slot)
  }

  /** The same, and the entry of slot `from` takes its place. */
  move(section: SectionStore, from: number, slot: number, ordinal: number): void {
    this.#recordDisplaced(section, this.locations.get(slot, this.#at), ordinal)
    const { segment, offset, length } = this.locations.get(from, this.#at)
    this.locations.set(slot, segment, offset, length)
    this.locations.remove(from)
  }

  /** Takes the entry of a slot out of a digest. Returns where it lies, until the next call. */
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

  /** The location of a slot's entry, for listeners of the change that replaces it; null: there is no listener, or no entry. */
  locate({ listeners }: SectionStore, slot: number | undefined): Location | null {
    if (listeners.size === 0 || slot === undefined) return null
    return { ...this.locations.get(slot, this.#at) }
  }

  /** The encoded Change of a slot, read from its segment, in a buffer of its own. */
  read(section: SectionStore, key: string, slot: number): { value: Buffer; version: number } {
    return this.readAt(section, key, this.locations.get(slot, this.#at))
  }

  /** As {@link read}, of what lies at a place, or lay there before it was replaced in this turn. */
  readAt(section: SectionStore, key: string, at: Location): { value: Buffer; version: number } {
    const found = this.#findEntry(section, key, at)
    const { valueStart, valueEnd, version } = this.#scanned
    return { value: copyOf(found, valueStart, valueEnd), version }
  }

  /** The result of `is` for the value of a slot, where it lies. */
  testValue(
    section: SectionStore,
    key: string,
    slot: number,
    is: (bytes: Buffer, start: number, end: number) => boolean,
  ): boolean {
    const found = this.#findEntry(section, key, this.locations.get(slot, this.#at))
    return is(found, this.#scanned.valueStart, this.#scanned.valueEnd)
  }

  /** As {@link #find}; what lies where is in `#old`. */
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

  /** The buffer of an encoded Change, from the `start` of {@link ReadAhead} on; valid until the next call. */
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

/** A copy of so few bytes is made faster here than by a call. */
const FEW = 64

function copyOf(bytes: Buffer, start: number, end: number): Buffer {
  const length = end - start
  const copy = Buffer.allocUnsafe(length)
  if (length > FEW) bytes.copy(copy, 0, start, end)
  else for (let i = 0; i < length; i++) copy[i] = bytes[start + i]!
  return copy
}

/** Whether bytes are a text in UTF-8; a text in ASCII, as most keys are, is compared without one being made of the bytes. */
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
