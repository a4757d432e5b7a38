import { once } from 'node:events'
import { rmSync } from 'node:fs'
import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { FdbError } from '../errors.js'
import { type OwnedFd, openFile, readAt, sync, writerInto } from '../kernel/index.js'
import { ProgressLine } from './output.js'
import type { ExportHead } from './state-file.js'
import { LineWriter, writeEntries } from './state-lines.js'
import { type OpenState, openState, type SourceFlags, schemasIn, withDigests } from './state-source.js'

interface ExportFlags extends SourceFlags {
  format: 'lines' | 'log'
  section?: string[] | undefined
  out?: string
  secrets: boolean
}

const CHUNK = 1024 * 1024

/** Shows how many bytes are written, on a terminal that does not show the state itself. */
type Shown = (done: number, total?: number) => void

export async function exportState({ format, section, out, secrets, ...flags }: ExportFlags): Promise<void> {
  using state = await openState(flags)
  if (state.redacted > 0 && format === 'log') {
    throw new FdbError(
      'ERR_FDB_STATE_SECRET',
      `${state.redacted} secret values are not in ${state.name}; use a source that has them`,
    )
  }
  const secret = state.log.schemas().flatMap(schema => (schema.secret ? [schema.name] : []))
  if (format === 'log' && !secrets && secret.length > 0) {
    throw new FdbError(
      'ERR_FDB_STATE_SECRET',
      `the log holds secret sections (${secret.join(', ')}): give --secrets, or use --format lines, which leaves their values out`,
    )
  }
  using progress = new ProgressLine()
  const shown = (done: number, total?: number) => {
    if (out !== undefined || !process.stdout.isTTY) progress.bytes('writing the state', done, total)
  }
  const write = (writer: Writable) =>
    format === 'log' ? writeLog(state, writer, shown) : writeLines(state, { section, secrets, shown }, writer)
  if (out === undefined) return await write(process.stdout)
  using fd = openNew(out)
  try {
    const file = writerInto(fd)
    const end = finished(file).catch(cause => {
      throw new FdbError('ERR_FDB_STATE_FILE', `${out} cannot be written (${(cause as Error).message})`, {
        cause,
      })
    })
    // The file may fail while lines are written.
    await Promise.race([end, write(file)])
    file.end()
    await end
    sync(fd)
  } catch (error) {
    rmSync(out, { force: true })
    throw error
  }
}

/** Creates a file. Throws ERR_FDB_STATE_FILE if it exists. */
function openNew(out: string): OwnedFd {
  try {
    return openFile(out, 'wx', out, 0o600)
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST'
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      exists
        ? `${out} exists; give a new name, or remove it`
        : `${out} cannot be made (${(cause as Error).message})`,
      { cause },
    )
  }
}

async function writeLines(
  state: OpenState,
  { section, secrets, shown }: Pick<ExportFlags, 'section' | 'secrets'> & { readonly shown: Shown },
  writer: Writable,
): Promise<void> {
  const { log, redacted } = state
  const schemas = schemasIn(state, section)
  const { epoch, sequence } = log.position
  const out = new LineWriter(writer, shown)
  const sections = withDigests(log, schemas)
  await out.write({ fdbState: 1, epoch, sequence, sections } satisfies ExportHead)
  for (const schema of schemas) await writeEntries(log, schema, { secrets, exact: true }, out)
  await out.flush()
  if (redacted > 0) process.stderr.write(`${redacted} secret values were missing in the source\n`)
}

/** Writes the state as one compacted snapshot segment. */
async function writeLog({ log }: OpenState, writer: Writable, shown: Shown): Promise<void> {
  log.endWriting(new FdbError('ERR_FDB_STATE_CLOSED', 'this copy of the log is only read'))
  for (const segment of log.segments) segment.seal()
  const segments = await log.compact()
  const segment = segments.find(({ kind }) => kind === 'snapshot') ?? segments[0]
  if (segment === undefined) throw new FdbError('ERR_FDB_STATE_FILE', 'the state has no log yet; try again')
  const size = segment.size()
  for (let at = 0; at < size; ) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK, size - at))
    const got = readAt(segment.fd, chunk, 0, chunk.length, at)
    if (got === 0) break
    at += got
    shown(at, size)
    if (!writer.write(chunk.subarray(0, got))) await once(writer, 'drain')
  }
}
