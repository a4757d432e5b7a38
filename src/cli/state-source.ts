import { statSync } from 'node:fs'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { ServiceState } from '../operator/service-state.js'
import { type AskCommand, StateCopy } from '../operator/state-copy.js'
import type { Position } from '../state/history.js'
import type { StoredSchema } from '../state/records.js'
import type { StateLog } from '../state/state-log.js'
import {
  type AskFlags,
  askService,
  commandService,
  IDEMPOTENT_RETRY_CODES,
  ofServiceWith,
} from './ask-service.js'
import { ProgressLine } from './output.js'
import { differencesFrom, readStateFile } from './state-file.js'

export interface SourceFlags {
  control?: string
  file?: string
  service?: string
  timeout: number
}

interface OpenOptions {
  /** The file was edited: do not compare it with its first line. */
  edited?: boolean
}

/** A copy of a state. */
export interface OpenState extends Disposable {
  log: StateLog
  name: string
  /** The source that the state was verified against. */
  verified: 'the service' | 'its first line' | 'its checksums'
  /** The sections whose schema the source does not have: only their entries are in the file. */
  unnamed: ReadonlySet<string>
  /** Number of secret values that the file does not have. */
  redacted: number
  /** Bytes of an incomplete record at the end, which were ignored. */
  torn: number
}

/**
 * Reads a whole state and verifies it. Rejects with ERR_FDB_STATE_SOURCE, ERR_FDB_STATE_DIGEST, and the errors of {@link copyState} and
 * {@link readStateFile}.
 */
export async function openState(flags: SourceFlags, options: OpenOptions = {}): Promise<OpenState> {
  const { control, file } = flags
  if (control !== undefined && file === undefined) return openControl({ ...flags, control })
  if (file !== undefined && control === undefined) return openFile(file, options)
  throw new FdbError(
    'ERR_FDB_STATE_SOURCE',
    'which state? Give a service (--control) or --file (- is standard input), not both',
  )
}

/** Returns the schemas of the wanted sections; of all if `wanted` is undefined. Throws ERR_FDB_STATE_NO_ENTRY. */
export function schemasIn({ log, name }: OpenState, wanted?: readonly string[]): StoredSchema[] {
  const all = log.schemas()
  const names = all.map(schema => schema.name)
  const missing = wanted?.find(each => !names.includes(each))
  if (missing === undefined) return all.filter(schema => wanted?.includes(schema.name) ?? true)
  throw new FdbError(
    'ERR_FDB_STATE_NO_ENTRY',
    `there is no section ${JSON.stringify(missing)} in ${name} (there are: ${names.join(', ') || 'none'})`,
  )
}

export function withDigests(
  log: StateLog,
  schemas: readonly StoredSchema[],
): (StoredSchema & { entries: number; digest: string })[] {
  const digests = new Map(log.digests().map(one => [one.name, one]))
  return schemas.map(schema => {
    const { entries = 0, digest = '' } = digests.get(schema.name) ?? {}
    return { ...schema, entries, digest }
  })
}

/** Opens an argument of `state diff`: a control socket, a file, or `-`. */
export async function openDiffSide(argument: string, flags: SourceFlags): Promise<OpenState> {
  return argument !== '-' && isSocket(argument)
    ? openControl({ ...flags, control: argument })
    : openFile(argument, {})
}

/** False also for a path that this user may not look at: to read it as a file fails with the reason. */
function isSocket(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isSocket() === true
  } catch {
    return false
  }
}

async function openControl({
  control,
  service = '',
  timeout,
}: SourceFlags & { control: string }): Promise<OpenState> {
  using progress = new ProgressLine()
  const { log } = await copyState({ control, service, timeout }, progress)
  return {
    log,
    name: control,
    verified: 'the service',
    unnamed: new Set(),
    redacted: 0,
    torn: 0,
    [Symbol.dispose]: () => log.close(),
  }
}

async function openFile(file: string, { edited = false }: OpenOptions): Promise<OpenState> {
  using progress = new ProgressLine()
  const name = file === '-' ? 'standard input' : file
  const { log, head, unnamed, redacted, torn } = await readStateFile(file, progress)
  const compared = head !== null && redacted === 0 && !edited
  const differences = compared ? differencesFrom(head, log.digests()) : []
  if (differences.length > 0) {
    log.close()
    throw new FdbError(
      'ERR_FDB_STATE_DIGEST',
      `${name} is not as it was written: ${differences.slice(0, 5).join('; ')}. Give --edited if it was changed on purpose`,
    )
  }
  const verified = compared ? 'its first line' : 'its checksums'
  return { log, name, verified, unnamed, redacted, torn, [Symbol.dispose]: () => log.close() }
}

/**
 * Returns the state of a service. Each request goes to the process that serves then, so a watch continues across upgrades. A single request is
 * not repeated after ERR_FDB_STATE_MOVED, because it would fail again: {@link StateCopy.readNew} starts the copy again.
 */
export function stateOf(flags: AskFlags): ServiceState {
  return new ServiceState((command, body) =>
    ofStateful(commandService(flags, IDEMPOTENT_RETRY_CODES, command, body)),
  )
}

/**
 * Errors after which work of several requests about the state is repeated: {@link IDEMPOTENT_RETRY_CODES}, and ERR_FDB_STATE_MOVED, which follows a
 * compaction of the log. The service does not apply a repeated change twice, because the request id identifies the change.
 */
const STATE_RETRY_CODES: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  ...IDEMPOTENT_RETRY_CODES,
  'ERR_FDB_STATE_MOVED',
])

interface ControlOptions extends AskFlags {
  service: string
}

/** Runs `work` with the serving process. If another process starts to serve before `work` is done, runs it again: `work` must be idempotent. */
export async function withServing<T>(
  options: ControlOptions,
  work: (ask: AskCommand) => Promise<T>,
): Promise<T> {
  const { service } = options
  return await ofStateful(
    askService(options, STATE_RETRY_CODES, (client, timeout) =>
      work((command, body) => client.command(command, body, { timeout, service })),
    ),
  )
}

function ofStateful<T>(answer: Promise<T>): Promise<T> {
  return ofServiceWith(
    'this service answers no requests for its state (a program under fd-broker run has none, and members in Python and Go do not show it): name a service that does',
    answer,
  )
}

/** Copies the log of the serving process, up to its last record at the time of the request. */
export async function copyState(
  options: ControlOptions,
  progress: ProgressLine,
): Promise<{ log: StateLog; position: Position }> {
  const copy = new StateCopy()
  const reading = (done: number, total: number) => progress.bytes('reading the state', done, total)
  try {
    const position = await withServing(options, ask => copy.readNew(ask, reading))
    // In a sealed segment an incomplete record at the end is damage, not a record that is being written.
    copy.log.segments.at(-1)?.seal()
    return { log: copy.log, position }
  } catch (error) {
    copy.log.close()
    throw error
  }
}
