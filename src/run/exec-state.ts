import { constants } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import {
  closeOnThrow,
  executeInstead,
  holdSignals,
  isShortage,
  memoryFile,
  type NativeError,
  numbersOf,
  OwnedFd,
  ownNumber,
  type ProgramStart,
  readAt,
  releaseSignals,
  sizeOf,
  writeAllAt,
} from '../kernel/index.js'
import type { Failure } from '../operator/status-report.js'
import { startRemedy, successorCommand } from '../os/command-line.js'
import type { FirstControl } from '../os/control-path.js'
import { holdingVariables, maskOf } from '../os/held-signals.js'
import { outOfDescriptors } from '../os/limits.js'
import { FIRST_FD, type UnclaimedSocket } from '../os/service-manager/passed-sockets.js'
import { NO_PASSED_SOCKETS } from '../os/service-manager/service-manager.js'
import type { ChildProcesses } from '../versions/child-processes.js'
import type { ExitReason } from '../versions/exit-reason.js'
import type { SupervisorState } from '../versions/version-machine.js'
import type { InheritedProbe } from '../versions/version-probe.js'
import type { DeathGuard } from './death-guard.js'
import { type ExitReport, exitCodeText } from './failures.js'
import type { KnownVersion } from './known-versions.js'
import type { SupervisorSettings, VersionSettings } from './settings.js'
import { EXEC_STATE_VARIABLE, type SharedListener } from './shared-listeners.js'

/** Number of the state's format; other releases may use other numbers. */
const FORMAT = 1
/** Keys of objects that stand for values without a JSON form. `=` keeps them apart from names of environment variables. */
const FD_KEY = 'fd='
const BIGINT_KEY = 'bigint='
/** In the variables of a version: names, one a line, of those that are removed for it. An earlier release does not read them. */
const UNSET_KEY = 'unset='

/** A running version, for the supervisor's next image. */
export interface InheritedVersion extends InheritedProbe {
  readonly settings: VersionSettings
  readonly id: number
  readonly pid: number
  readonly startedAt: number
  readonly says: string
  /** Whether another version has replaced this one, which now drains. */
  readonly replaced: boolean
  /** The file of the version's {@link ExitReason}; absent or null if it has none. */
  readonly exitReason?: string | null
}

/**
 * The state that a supervisor hands to the program that it executes in its own process (its next image). Descriptors stay open under their
 * numbers. Other releases read the property names.
 */
export interface ExecState {
  /** Number of replacements, including this one. */
  readonly replaced: number
  readonly settings: SupervisorSettings
  readonly startedAt: number
  readonly state: SupervisorState
  /** The command that an operator gave; null: versions run the configured one. */
  readonly argv: readonly string[] | null
  readonly draining: readonly number[]
  readonly exits: ExitReport
  readonly lastFailure: Failure | null
  /** The file of the events; absent or null if there are none. */
  readonly events?: OwnedFd | null
  /** Remaining milliseconds of each timer. */
  readonly timers: Readonly<Record<string, number>>
  readonly control: FirstControl | null
  readonly listeners: readonly SharedListener[]
  /** The first of the versions with the settings of the one that serves, or has served last; absent if an earlier release wrote this state. */
  readonly release?: number
  /** Inodes of listeners that an operator has removed from the daemon (`--from`); absent if an earlier release wrote this state. */
  readonly removed?: readonly string[]
  /** Sockets from the service manager that no version has used. */
  readonly unclaimed: readonly UnclaimedSocket[]
  readonly versions: readonly InheritedVersion[]
  readonly known: readonly KnownVersion[]
}

/** Returns the state as text, and adds its descriptors to `fds`. */
export function textOf(state: ExecState, fds: OwnedFd[]): string {
  return JSON.stringify({ format: FORMAT, ...state }, (name, value: unknown) => {
    if (typeof value === 'bigint') return { [BIGINT_KEY]: `${value}` }
    if (name === 'env') return withUnset(value as NodeJS.ProcessEnv)
    if (!(value instanceof OwnedFd)) return value
    fds.push(value)
    return { [FD_KEY]: numbersOf([value])[0], label: value.label }
  })
}

/** JSON leaves out what is undefined. */
function withUnset(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const unset = Object.keys(env).filter(name => env[name] === undefined)
  return unset.length === 0 ? env : { ...env, [UNSET_KEY]: unset.join('\n') }
}

function withoutUnset({ [UNSET_KEY]: unset, ...env }: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...env, ...Object.fromEntries((unset?.split('\n') ?? []).map(name => [name, undefined])) }
}

/** Writes the state to a memfd, `memory`, which the caller owns. `fds` are the descriptors in the state, borrowed. */
function writeState(state: ExecState): { readonly memory: OwnedFd; readonly fds: OwnedFd[] } {
  const fds: OwnedFd[] = []
  const text = textOf(state, fds)
  const memory = memoryFile('fd-broker run', 'the state of a supervisor')
  return closeOnThrow([memory], () => {
    writeAllAt(memory, Buffer.from(text), 0)
    return { memory, fds }
  })
}

export interface InheritedState {
  /** Whether to continue from the state. False in a dry run, which only reports whether this release can continue. */
  readonly take: boolean
  /** Null if the previous image wrote another format. */
  readonly state: ExecState | null
}

/** Reads the state of the previous image; null if there is none. With `take` the caller owns the descriptors. */
export function findInheritedState(): InheritedState | null {
  const [, order, digits] = /^(take|try):(\d+)$/.exec(process.env[EXEC_STATE_VARIABLE] ?? '') ?? []
  delete process.env[EXEC_STATE_VARIABLE]
  if (digits === undefined) return null
  using memory = ownNumber(Number(digits), 'the state of the previous image')
  const take = order === 'take'
  return { take, state: readState(memory, take) }
}

/**
 * Reads the state. With `take` this process owns the descriptors; otherwise they are null. Returns null for another format; throws on
 * invalid JSON.
 */
function readState(memory: OwnedFd, take: boolean): ExecState | null {
  const bytes = Buffer.alloc(sizeOf(memory))
  return stateIn(bytes.toString('utf8', 0, readAt(memory, bytes, 0, bytes.length, 0)), take)
}

/** As {@link readState}, from the text of {@link textOf}. */
export function stateIn(text: string, take: boolean): ExecState | null {
  if (JSON.parse(text).format !== FORMAT) return null
  return JSON.parse(text, (name, value: unknown) => {
    if (typeof value !== 'object' || value === null) return value
    if (name === 'env') return withoutUnset(value as NodeJS.ProcessEnv)
    if (BIGINT_KEY in value) return BigInt(String(value[BIGINT_KEY]))
    if (!(FD_KEY in value)) return value
    return take ? ownNumber(Number(value[FD_KEY]), String((value as { label?: unknown }).label)) : null
  })
}

/** Exit code of a successful dry run that found signals blocked and has unblocked them. */
export const RELEASES_SIGNALS = 80

/** Blocks the signals that this process handles; the result unblocks them. Resolves after the handlers of earlier signals have run. */
async function blockHandledSignals(): Promise<Disposable> {
  holdSignals(handledSignals())
  // Between two immediates the event loop polls once, and so runs the handlers of signals that have arrived.
  await setImmediate()
  await setImmediate()
  return { [Symbol.dispose]: () => void releaseSignals() }
}

function handledSignals(): number {
  return maskOf(Object.keys(constants.signals).filter(name => process.listenerCount(name) > 0))
}

/** Time limit for the dry run. */
const DRY_RUN_MS = 30_000

/**
 * Executes the installed release in this process, after a dry run in a child, and after `hooksEnd`, which is called behind that run. Never resolves.
 * `snapshot` returns the state for the next image. Rejects, with nothing changed, with ERR_FDB_NO_BINARY, ERR_FDB_NO_CWD, ERR_FDB_SPAWN,
 * ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_DEADLINE, and with the errors of `snapshot`.
 */
export async function replaceImage(
  snapshot: () => ExecState,
  hooksEnd: () => Promise<void>,
  children: ChildProcesses,
  deathGuard: DeathGuard,
  logger: Logger,
): Promise<never> {
  try {
    const holding = await tryNextImage(snapshot(), children)
    if (holding === null)
      logger.warn(
        {},
        'a signal that arrives while the supervisor is replaced may end it: the installed release cannot block signals',
      )
    await hooksEnd()
    using _held = holding && (await blockHandledSignals())
    const all = snapshot()
    logger.info({ replaced: all.replaced }, 'the supervisor is replaced by the installed release')
    // Also an older release, which has no guard, takes over the versions.
    deathGuard.release()
    try {
      return becomeNextImage(all, holding ?? {})
    } catch (error) {
      deathGuard.renew()
      throw error
    }
  } catch (error) {
    const reason = isShortage(error)
      ? outOfDescriptors('the state of this supervisor cannot be given to its next release', error)
      : FdbError.from(error)
    logger.error({ err: reason }, 'the supervisor was not replaced and keeps running')
    throw reason
  }
}

interface ReplacementParts {
  readonly hooks: { ended(): Promise<void> }
  readonly children: ChildProcesses
  readonly deathGuard: DeathGuard
  readonly logger: Logger
}

/** The replacement of this process's image by the installed release: one attempt at a time. */
export class ImageReplacement {
  readonly #snapshot: () => ExecState
  readonly #parts: ReplacementParts
  #attempt: Promise<never> | null = null

  /** `snapshot` returns the state for the next image, and throws if this process cannot be replaced now. */
  constructor(snapshot: () => ExecState, parts: ReplacementParts) {
    this.#snapshot = snapshot
    this.#parts = parts
  }

  /** Joins the attempt that is under way, if there is one. Never resolves. Rejects as {@link replaceImage} does. */
  start(): Promise<never> {
    this.#attempt ??= this.#replace().finally(() => {
      this.#attempt = null
    })
    return this.#attempt
  }

  async #replace(): Promise<never> {
    const { hooks, children, deathGuard, logger } = this.#parts
    // The next image would not know their limits.
    await hooks.ended()
    return await replaceImage(this.#snapshot, () => hooks.ended(), children, deathGuard, logger)
  }
}

/** Resolves with variables that make the next image start with blocked signals; null if its loader or release does not support them. */
async function tryNextImage(state: ExecState, children: ChildProcesses): Promise<NodeJS.ProcessEnv | null> {
  const holding = holdingVariables(handledSignals())
  const code = holding === null ? null : await dryRun(state, holding, children)
  if (code === RELEASES_SIGNALS) return holding
  // The dynamic loader may have refused to preload the addon, which blocks the signals: try again without the addon.
  const plain = code === 0 ? code : await dryRun(state, {}, children)
  if (plain === 0) return null
  const why = `${nextCommand('').file}, the next release of this supervisor, ended ${exitCodeText(plain)} in a dry run (see its own output): the supervisor keeps running unchanged`
  throw new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { details: { code: plain } })
}

/** Starts the installed release as a child that reads the state. Resolves with the child's exit code: 0 or RELEASES_SIGNALS on success. */
async function dryRun(state: ExecState, env: NodeJS.ProcessEnv, children: ChildProcesses): Promise<number> {
  const next = nextCommand(`try:${FIRST_FD}`, env)
  using memory = writeState(state).memory
  return await new Promise<number>((resolve, reject) => {
    let pid = 0
    const timer = setTimeout(() => {
      children.kill(pid)
      const why = `${next.file}, the next release of this supervisor, did not report within ${DRY_RUN_MS} ms whether it can continue`
      reject(new FdbError('ERR_FDB_DEADLINE', why))
    }, DRY_RUN_MS)
    try {
      const start = { ...next, fds: [memory], deathSignal: constants.signals.SIGKILL }
      pid = children.start(start, ended => {
        clearTimeout(timer)
        resolve(ended)
      })
    } catch (error) {
      clearTimeout(timer)
      reject(notStarted(next, error as NativeError))
    }
  })
}

/** Executes the installed release in this process. On failure throws with nothing changed. */
function becomeNextImage(state: ExecState, env: NodeJS.ProcessEnv): never {
  const { memory, fds } = writeState(state)
  try {
    const next = nextCommand(`take:${numbersOf([memory])[0]}`, env)
    try {
      return executeInstead(next, [memory, ...fds])
    } catch (error) {
      throw notStarted(next, error as NativeError)
    }
  } finally {
    memory.close()
  }
}

/** Looks up this process's command again, as a release may have moved. Omits LISTEN_FDS: the state has the passed sockets. */
function nextCommand(order: string, variables: NodeJS.ProcessEnv = {}): ProgramStart {
  return successorCommand({ env: { ...NO_PASSED_SOCKETS, ...variables, [EXEC_STATE_VARIABLE]: order } })
}

function notStarted({ file, cwd }: ProgramStart, cause: NativeError): FdbError {
  const why = `this supervisor cannot execute ${file} in ${cwd} (${cause.code}): ${startRemedy(cause.code)}; the supervisor keeps running unchanged`
  return new FdbError('ERR_FDB_SPAWN', why, { cause, details: { file, cwd } })
}
