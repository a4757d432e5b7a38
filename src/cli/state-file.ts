import { createReadStream } from 'node:fs'
import { FdbError } from '../errors.js'
import { memoryFile, writeAt } from '../kernel/index.js'
import { segmentsOfFile } from '../state/file/transcribe.js'
import { encodeImport } from '../state/import.js'
import { limitsToRead } from '../state/limits.js'
import type { SectionDigest } from '../state/overview.js'
import { type NewChange, PUT, type StoredSchema } from '../state/records.js'
import { MOST_HEADER_BYTES, readHeader, Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'
import { runInSlices } from '../state/time-slices.js'
import type { ProgressLine } from './output.js'
import { lineBytes } from './state-lines.js'

export interface ExportHead {
  fdbState: 1
  epoch: number
  sequence: number
  sections: (StoredSchema & { entries: number; digest: string })[]
}

interface FileState {
  log: StateLog
  /** The first line of an export; null if the file has none. */
  head: ExportHead | null
  /** The sections whose schema the file does not have. */
  unnamed: ReadonlySet<string>
  /** Entries whose secret values the export left out. */
  redacted: number
  /** Bytes of an incomplete record at the end. */
  torn: number
}

/** Entries of an export that are imported together end with the one that reaches a limit. */
const BATCH_ENTRIES = 1000
const BATCH_BYTES = 1024 * 1024
/** The longest line that Node can read as a text has fewer bytes. */
const LINE_BYTES = 512 * 1024 * 1024
/** Longest time without a turn of the event loop, in which the progress is shown. */
const SLICE_MS = 50

/**
 * Reads a state file, a segment of the log, or the lines of an export; `-` is standard input. Rejects with ERR_FDB_STATE_FILE, and as
 * {@link StateLog.adopt}.
 */
export async function readStateFile(file: string, progress: ProgressLine): Promise<FileState> {
  const name = file === '-' ? 'standard input' : file
  const chunks = chunksOf(file, name, progress)
  const first = await chunks.next()
  if (first.done)
    throw new FdbError('ERR_FDB_STATE_FILE', `${name} is empty; give the output of \`state export\``)
  const all = async function* () {
    yield first.value
    yield* chunks
  }
  const lines = /^\s*\{/.test(first.value.toString('latin1', 0, 64))
  return lines
    ? readLines(all(), name)
    : { ...(await readLog(all())), head: null, unnamed: new Set(), redacted: 0 }
}

async function* chunksOf(file: string, name: string, progress: ProgressLine): AsyncGenerator<Buffer, void> {
  let done = 0
  try {
    for await (const chunk of file === '-' ? process.stdin : createReadStream(file)) {
      done += chunk.length
      progress.bytes(`reading ${name}`, done)
      yield chunk
    }
  } catch (cause) {
    throw new FdbError('ERR_FDB_STATE_FILE', `${name} cannot be read (${(cause as Error).message})`, {
      cause,
    })
  }
}

async function readLog(chunks: AsyncIterable<Buffer>): Promise<{ log: StateLog; torn: number }> {
  using fd = memoryFile('fdb-state-file', 'a copy of a state file')
  let at = 0
  let begun = false
  for await (const chunk of chunks) {
    writeAt(fd, chunk, 0, chunk.length, at)
    at += chunk.length
    if (begun || at < MOST_HEADER_BYTES) continue
    // Another input may have no end.
    readHeader(fd, 0)
    begun = true
  }
  const log = new StateLog({ limits: limitsToRead(at) })
  try {
    const reading = { limits: log.limits, mayLackMarks: true as const }
    const { segments, torn } = await runInSlices(segmentsOfFile(fd, reading), { sliceMs: SLICE_MS })
    for (const segment of segments) await log.adopt(segment)
    return { log, torn }
  } catch (error) {
    log.close()
    throw error
  }
}

async function readLines(chunks: AsyncIterable<Buffer>, name: string): Promise<FileState> {
  const log = new StateLog({ limits: limitsToRead(LINE_BYTES) })
  log.startWriting(Segment.create(1))
  let head: ExportHead | null = null
  let redacted = 0
  const codecs = new Map<string, string>()
  /** The highest version of an entry, for each section that the first line does not name. */
  const unnamed = new Map<string, number>()
  let schemas: StoredSchema[] = []
  let changes: NewChange[] = []
  let bytes = 0
  let number = 0
  const wrong = (why: string) => new FdbError('ERR_FDB_STATE_FILE', `${name}, line ${number}: ${why}`)
  const close = async () => {
    if (schemas.length + changes.length > 0) {
      const staged = log.stageImport()
      await staged.add(encodeImport(schemas, changes))
      await staged.commit('')
    }
    schemas = []
    changes = []
    bytes = 0
  }
  const addLine = (line: Record<string, unknown>) => {
    if ('fdbState' in line) {
      if (number > 1) throw wrong('it is the first line of another export')
      head = headOf(line, wrong)
      schemas = head.sections.map(({ name, version, minReader, codec, secret }) => ({
        name,
        version,
        minReader,
        codec,
        secret,
      }))
      for (const schema of schemas) codecs.set(schema.name, schema.codec)
      return
    }
    const { section, key, version = 0 } = line
    if (typeof section !== 'string' || typeof key !== 'string') throw wrong('it lacks "section" or "key"')
    if (!Number.isInteger(version)) throw wrong('its "version" is not a whole number')
    const highest = unnamed.get(section)
    if (!codecs.has(section) || (highest !== undefined && highest < (version as number))) {
      codecs.set(section, '')
      unnamed.set(section, version as number)
      schemas.push({
        name: section,
        version: version as number,
        minReader: 0,
        codec: '',
        secret: false,
      })
    }
    if (line.redacted === true) {
      redacted++
      return
    }
    const value = lineBytes(line, codecs.get(section) ?? '')
    if (typeof value === 'string') throw wrong(value)
    changes.push({ section, op: PUT, key, value, version: version as number })
    bytes += value.length
  }
  try {
    for await (const text of linesOf(chunks)) {
      number++
      if (text.trim() === '') continue
      addLine(parse(text, wrong))
      if (changes.length >= BATCH_ENTRIES || bytes >= BATCH_BYTES) await close()
    }
    await close()
  } catch (error) {
    log.close()
    throw error
  }
  return { log, head, unnamed: new Set(unnamed.keys()), redacted, torn: 0 }
}

function parse(text: string, wrong: (why: string) => FdbError): Record<string, unknown> {
  let line: unknown
  try {
    line = JSON.parse(text)
  } catch (error) {
    throw wrong((error as Error).message)
  }
  if (typeof line !== 'object' || line === null || Array.isArray(line)) throw wrong('it is not a JSON object')
  return line as Record<string, unknown>
}

function headOf(line: Record<string, unknown>, wrong: (why: string) => FdbError): ExportHead {
  const { fdbState, sections } = line
  if (fdbState !== 1)
    throw wrong(`it is an export of format ${String(fdbState)}; this release reads format 1`)
  const ok = (section: Partial<ExportHead['sections'][number]>) =>
    typeof section?.name === 'string' &&
    typeof section.codec === 'string' &&
    Number.isInteger(section.version) &&
    Number.isInteger(section.minReader) &&
    typeof section.secret === 'boolean'
  if (!Array.isArray(sections) || !sections.every(ok)) throw wrong('its "sections" are not a list of schemas')
  return line as unknown as ExportHead
}

async function* linesOf(chunks: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let pending: Buffer[] = []
  for await (const chunk of chunks) {
    let start = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      pending.push(chunk.subarray(start, end))
      yield Buffer.concat(pending).toString()
      pending = []
      start = end + 1
    }
    pending.push(chunk.subarray(start))
  }
  const last = Buffer.concat(pending).toString()
  if (last !== '') yield last
}

/** Describes the sections whose entries are not those of the first line of an export. Does not compare sections without a digest. */
export function differencesFrom(head: ExportHead, digests: readonly SectionDigest[]): string[] {
  const now = new Map(digests.map(one => [one.name, one]))
  return head.sections.flatMap(({ name, digest, entries }) => {
    if (digest === undefined) return []
    const found = now.get(name)
    if (found?.digest === digest && found.entries === entries) return []
    const count = found?.entries ?? 0
    return [`the ${count} entries of section "${name}" are not the ${entries} entries of the first line`]
  })
}
