import { once } from 'node:events'
import type { Writable } from 'node:stream'
import { fdbroker } from '../proto/proxy.js'
import { fdbroker as tlsProto } from '../proto/tls.js'
import { ROUTES } from '../proxy/routes/section.js'
import { LISTENERS, SETTINGS, UPSTREAMS } from '../proxy/state/sections.js'
import { CERTIFICATES } from '../proxy/tls/section.js'
import { type Codec, json, msgpack } from '../state/codec.js'
import type { RawEntry } from '../state/overview.js'
import type { StoredSchema } from '../state/records.js'
import type { StateLog } from '../state/state-log.js'

/** The value of an entry in the first form that fits. `value` is decoded by the codec, `text` and `base64` are its bytes. */
type LineValue =
  | { value: unknown }
  | { text: string }
  | { base64: string }
  | { redacted: true; bytes: number }

type EntryLine = { section: string; key: string; version: number } & LineValue

export interface LineOptions {
  /** Show the values of sections that are marked secret. */
  secrets: boolean
  /** Use only forms that restore the same bytes. */
  exact: boolean
}

const CODECS: ReadonlyMap<string, Codec<unknown>> = new Map(
  [json(), msgpack()].map(codec => [codec.name, codec]),
)

/** Message types of the built-in sections. Values of secret sections are decoded only with `--secrets`. */
const MESSAGE_TYPES = new Map<string, { decode(bytes: Uint8Array): object }>([
  [ROUTES, fdbroker.proxy.Route],
  [UPSTREAMS, fdbroker.proxy.Upstream],
  [LISTENERS, fdbroker.proxy.Listener],
  [SETTINGS, fdbroker.proxy.Setting],
  [CERTIFICATES, tlsProto.tls.Certificate],
])

export function entryLine(schema: StoredSchema, entry: RawEntry, options: LineOptions): EntryLine {
  const { key, value, version } = entry
  return { section: schema.name, key, version, ...lineValue(schema, value, options) }
}

export function lineValue(
  schema: StoredSchema,
  bytes: Uint8Array,
  { secrets, exact }: LineOptions,
): LineValue {
  if (schema.secret && !secrets) return { redacted: true, bytes: bytes.length }
  const value = decodeValue(schema, bytes, exact)
  if (value !== undefined) return { value }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = buffer.toString()
  const plain = schema.codec !== 'protobuf' && !/\p{Cc}|\ufffd/u.test(text)
  if (plain && buffer.equals(Buffer.from(text))) return { text }
  return { base64: buffer.toString('base64') }
}

function decodeValue(schema: StoredSchema, bytes: Uint8Array, exact: boolean): unknown {
  try {
    const codec = CODECS.get(schema.codec)
    if (codec) {
      const value = codec.decode(bytes)
      if (!exact) return JSON.parse(JSON.stringify(value, asShown))
      // The value is compared after a round trip through JSON, because the line has it as JSON.
      return Buffer.compare(codec.encode(JSON.parse(JSON.stringify(value))), bytes) === 0 ? value : undefined
    }
    const type = schema.codec === 'protobuf' ? MESSAGE_TYPES.get(schema.name) : undefined
    if (!exact && type !== undefined) return { ...type.decode(bytes) }
  } catch {
    // The value is shown as bytes.
  }
  return undefined
}

/** For `JSON.stringify`: parts of a value that JSON lacks become texts. A Date is a text already. */
function asShown(this: Record<string, unknown>, key: string, shown: unknown): unknown {
  const part = this[key] // without the effect of `toJSON`
  if (typeof part === 'bigint') return `${part}`
  if (typeof part === 'number' && !Number.isFinite(part)) return `${part}`
  return part instanceof Uint8Array ? Buffer.from(part).toString('base64') : shown
}

/** Returns the bytes of the value in a line, or a text that explains why there are none. */
export function lineBytes(line: Record<string, unknown>, codecName: string): Uint8Array | string {
  const { value, text, base64, redacted } = line
  if (redacted === true) return 'its value was left out as a secret: export with --secrets'
  if (typeof text === 'string') return Buffer.from(text)
  if (typeof base64 === 'string') {
    const bytes = Buffer.from(base64, 'base64')
    return bytes.toString('base64') === base64 ? bytes : 'its "base64" is not valid base64'
  }
  if (value === undefined) return 'it has no "value", "text" or "base64"'
  const codec = CODECS.get(codecName)
  return (
    codec?.encode(value) ??
    `a "value" cannot be encoded with codec "${codecName}": give its bytes as "base64"`
  )
}

const BATCH = 64 * 1024

/** Writes lines in batches, and waits while the reader is slow. */
export class LineWriter {
  readonly #out: Writable
  readonly #flushed: (written: number) => void
  #text: string[] = []
  #length = 0
  #written = 0
  #isClosed = false

  /** Calls `flushed` after each batch, with the characters so far. */
  constructor(out: Writable = process.stdout, flushed: (written: number) => void = () => {}) {
    this.#out = out
    this.#flushed = flushed
    // The reader has closed the pipe, as `| head` does, or the disk is full: the owner of `out` reports that.
    out.on('error', () => {
      this.#isClosed = true
    })
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  async write(line: unknown): Promise<void> {
    const text = `${typeof line === 'string' ? line : JSON.stringify(line)}\n`
    this.#text.push(text)
    this.#length += text.length
    if (this.#length >= BATCH) await this.flush()
  }

  async flush(): Promise<void> {
    const text = this.#text.join('')
    this.#written += text.length
    this.#flushed(this.#written)
    this.#text = []
    this.#length = 0
    if (this.#isClosed || text === '' || this.#out.write(text)) return
    const waiting = new AbortController()
    const { signal } = waiting
    const events = ['drain', 'close'].map(event => once(this.#out, event, { signal }))
    await Promise.race(events).catch(() => {})
    // The listeners of the event that did not come are removed.
    waiting.abort()
  }
}

/** Writes the entries of a section, sorted by key. */
export async function writeEntries(
  log: StateLog,
  schema: StoredSchema,
  options: LineOptions,
  out: LineWriter,
  prefix = '',
): Promise<void> {
  const section = log.rawSection(schema.name)
  const keys = [...section.keys()].filter(key => key.startsWith(prefix)).sort()
  for (const key of keys) {
    const entry = section.get(key)
    if (out.isClosed) return
    if (entry) await out.write(entryLine(schema, entry, options))
  }
}
