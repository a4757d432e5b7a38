import { FdbError, type FdbErrorCode } from '../errors.js'
import { memoryFile, writeAt } from '../kernel/index.js'
import { type ReadRequest, type SegmentsReply, STATE_COMMANDS } from '../state/commands.js'
import type { Position } from '../state/history.js'
import { Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'
import { AGAIN_HARMLESS, type AskFlags, asked } from './ask-service.js'
import type { ProgressLine } from './state-progress.js'

/**
 * Also where the log was compacted. Where the connection ended it may have been done: that is why an import has a request id.
 */
const AGAIN_STATE: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  ...AGAIN_HARMLESS,
  'ERR_FDB_STATE_MOVED',
])

export interface ControlOptions extends AskFlags {
  service: string
}

export type Ask = (command: string, body: Uint8Array | string) => Promise<Buffer>

/** Asks whoever serves; from the beginning where that has changed meanwhile: `work` must bear being done twice. */
export async function askServing<T>(options: ControlOptions, work: (ask: Ask) => Promise<T>): Promise<T> {
  const { service } = options
  return await asked(options, AGAIN_STATE, (client, timeoutMs) =>
    work((command, body) => client.command(command, body, { timeoutMs, service })),
  )
}

/** A copy of the log of the process that serves, as it stood when it was asked. */
export async function readControl(
  options: ControlOptions,
  progress: ProgressLine,
): Promise<{ log: StateLog; position: Position }> {
  return askServing(options, async ask => {
    const reply = await ask(STATE_COMMANDS.segments, '')
    const { position, segments } = JSON.parse(reply.toString()) as SegmentsReply
    const total = segments.reduce((sum, { size }) => sum + size, 0)
    const log = new StateLog()
    let done = 0
    try {
      for (const { kind, epoch, size } of segments) {
        const fd = memoryFile('fdb-state-copy', 'a copy of a state segment')
        try {
          for (let from = 0; from < size; ) {
            const page = await ask(
              STATE_COMMANDS.read,
              JSON.stringify({ kind, epoch, from } satisfies ReadRequest),
            )
            const length = Math.min(page.length, size - from)
            if (length === 0) throw cut(kind, epoch, from, size)
            writeAt(fd, page, 0, length, from)
            from += length
            done += length
            progress.bytes('reading the state', done, total)
          }
        } catch (error) {
          fd.close()
          throw error
        }
        const segment = Segment.open(fd)
        segment.seal()
        await log.adopt(segment)
      }
    } catch (error) {
      log.close()
      throw error
    }
    return { log, position }
  })
}

function cut(kind: string, epoch: number, from: number, size: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_DAMAGED',
    `the ${kind} segment of epoch ${epoch} ends at ${from}, not at ${size} as the service said; try again`,
  )
}
