import { FdbError } from '../errors.js'
import { memoryFile, writeAt } from '../kernel/index.js'
import { OperatorClient } from '../operator/client.js'
import { type ReadRequest, type SegmentsReply, STATE_COMMANDS } from '../state/commands.js'
import type { Position } from '../state/history.js'
import { Segment } from '../state/segment.js'
import { StateLog } from '../state/state-log.js'
import type { ProgressLine } from './state-progress.js'

const AGAIN_MS = 50
/**
 * Another serves by now, or the log was compacted: nothing was done. Where the connection ended it may have been done:
 * that is why an import has a request id.
 */
const AGAIN: ReadonlySet<string> = new Set([
  'ERR_FDB_FENCED',
  'ERR_FDB_BUSY',
  'ERR_FDB_STATE_MOVED',
  'ERR_FDB_CHANNEL_CLOSED',
])

export interface ControlOptions {
  control: string
  service: string
  timeout: number
}

export type Ask = (command: string, body: Uint8Array | string) => Promise<Buffer>

/** Asks whoever serves; from the beginning where that has changed meanwhile: `work` must bear being done twice. */
export async function askServing<T>(options: ControlOptions, work: (ask: Ask) => Promise<T>): Promise<T> {
  const { control, service, timeout } = options
  const until = performance.now() + timeout
  for (;;) {
    const timeoutMs = Math.max(1, Math.round(until - performance.now()))
    using client = await OperatorClient.connect(control, { timeoutMs })
    try {
      return await work((command, body) => client.command(command, body, { timeoutMs, service }))
    } catch (error) {
      const again = FdbError.is(error) && error.retryable && AGAIN.has(error.code)
      if (!again || performance.now() + AGAIN_MS >= until) throw error
    }
    await new Promise(resolve => setTimeout(resolve, AGAIN_MS))
  }
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
