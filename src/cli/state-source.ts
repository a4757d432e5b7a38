import { statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import type { StateLog } from '../state/state-log.js'
import { ProgressLine } from './output.js'
import { readControl } from './state-control.js'
import { readStateFile, unlike } from './state-file.js'

export interface SourceFlags {
  control?: string
  file?: string
  service?: string
  timeout: number
}

export interface OpenOptions {
  /** The file was changed by hand: it need not be what its first line says. */
  edited?: boolean
}

/** A state that was read: this process's own copy. */
export interface OpenState extends Disposable {
  log: StateLog
  name: string
  /** The source of the comparison. */
  verified: 'the service' | 'its first line' | 'its checksums'
  /** Values that were left out of a file as secrets. */
  redacted: number
  /** Bytes at its end that are no whole record, and left out. */
  torn: number
}

/** Reads all of a state and verifies it. Rejects with ERR_FDB_STATE_SOURCE, ERR_FDB_STATE_DIGEST, and as its readers. */
export async function openState(flags: SourceFlags, options: OpenOptions = {}): Promise<OpenState> {
  const { control, file } = flags
  if (control !== undefined && file === undefined) return openControl({ ...flags, control })
  if (file !== undefined && control === undefined) return openFile(file, options)
  throw new FdbError(
    'ERR_FDB_STATE_SOURCE',
    'which state? Give a service (--control) or --file (- is standard input), not both',
  )
}

/** Opens a place of `state diff`: a control socket, a file, or `-`. */
export async function openPlace(place: string, flags: SourceFlags): Promise<OpenState> {
  const socket = place !== '-' && statSync(place, { throwIfNoEntry: false })?.isSocket() === true
  return socket ? openControl({ ...flags, control: place }) : openFile(place, {})
}

async function openControl({
  control,
  service = '',
  timeout,
}: SourceFlags & { control: string }): Promise<OpenState> {
  using progress = new ProgressLine()
  const { log } = await readControl({ control, service, timeout }, progress)
  return opened(log, control, 'the service', 0, 0)
}

async function openFile(file: string, { edited = false }: OpenOptions): Promise<OpenState> {
  using progress = new ProgressLine()
  const name = file === '-' ? 'standard input' : file
  const { log, head, redacted, torn } = await readStateFile(file, progress)
  const compared = head !== null && redacted === 0 && !edited
  const differences = compared ? unlike(head, log.digests()) : []
  if (differences.length > 0) {
    log.close()
    throw new FdbError(
      'ERR_FDB_STATE_DIGEST',
      `${name} is not as it was written: ${differences.slice(0, 5).join('; ')}. Give --edited when it was changed on purpose`,
    )
  }
  return opened(log, name, compared ? 'its first line' : 'its checksums', redacted, torn)
}

function opened(
  log: StateLog,
  name: string,
  verified: OpenState['verified'],
  redacted: number,
  torn: number,
): OpenState {
  return { log, name, verified, redacted, torn, [Symbol.dispose]: () => log.close() }
}
