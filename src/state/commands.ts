import { FdbError } from '../errors.js'
import { native } from '../native.js'
import type { Position } from './history.js'
import type { SegmentKind } from './segment.js'
import type { StateLog } from './state-log.js'

/**
 * What `fd-broker state` asks a running service for: the log as it is, to be read by the asker. So a look at a million
 * entries costs the service what copying them costs, and nothing is decoded in it.
 */
export const STATE_COMMANDS = {
  segments: 'fd-broker.state.segments',
  read: 'fd-broker.state.read',
  import: 'fd-broker.state.import',
} as const

/** The most bytes of one reply to `read`. */
export const PAGE_BYTES = 1024 * 1024

export interface SegmentsReply {
  /** Where the log stands; what lies in the first `size` bytes of the segments adds up to it. */
  position: Position
  segments: { kind: SegmentKind; epoch: number; size: number }[]
}

export interface ReadRequest {
  kind: SegmentKind
  epoch: number
  /** File offset. The reply is bytes from there, at most {@link PAGE_BYTES}. */
  from: number
}

/** The first line of `import`; the encoded changes follow. */
export interface ImportRequest {
  /** A retry with the same id applies once. */
  request?: string
  replace?: boolean
}

export interface ImportReply {
  puts: number
}

type Register = (name: string, handler: (body: Buffer) => Promise<Uint8Array | string>) => unknown

export function serveStateCommands(register: Register, log: StateLog): void {
  register(STATE_COMMANDS.segments, async () => JSON.stringify(segmentsOf(log)))
  register(STATE_COMMANDS.read, async body => read(log, parse(body)))
  register(STATE_COMMANDS.import, async body => {
    const end = body.indexOf(0x0a)
    if (end < 0) throw wrong()
    const { request, replace } = parse(body.subarray(0, end))
    const options = { replace: replace === true, ...(typeof request === 'string' ? { request } : {}) }
    const reply: ImportReply = await log.importRecord(body.subarray(end + 1), options)
    return JSON.stringify(reply)
  })
}

function segmentsOf(log: StateLog): SegmentsReply {
  const { position } = log
  const segments = log.segments.map(({ kind, epoch, end, sealed, fd }) => {
    // The end of what is written here is where it stands; sealed ones were read whole.
    return { kind, epoch, size: sealed ? native.fileSize(fd.raw) : end }
  })
  return { position, segments }
}

function read(log: StateLog, { kind, epoch, from }: Partial<ReadRequest>): Buffer {
  if (typeof from !== 'number' || !Number.isSafeInteger(from) || from < 0) throw wrong()
  const segment = log.segments.find(one => one.kind === kind && one.epoch === epoch)
  if (segment === undefined) {
    throw new FdbError(
      'ERR_FDB_STATE_MOVED',
      `the ${String(kind)} segment of epoch ${String(epoch)} is not there any more: the log was compacted; begin again`,
      { retryable: true },
    )
  }
  const page = Buffer.allocUnsafe(Math.min(PAGE_BYTES, Math.max(0, segment.size() - from)))
  return page.subarray(0, native.pread(segment.fd.raw, page, 0, page.length, from))
}

function parse(body: Buffer): Record<string, never> {
  try {
    const value: unknown = JSON.parse(body.toString())
    if (typeof value === 'object' && value !== null) return value as Record<string, never>
  } catch {
    // Said below.
  }
  throw wrong()
}

function wrong(): FdbError {
  return new FdbError('ERR_FDB_MESSAGE', 'the request is not what this release of fd-broker understands')
}
