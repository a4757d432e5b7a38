import { memoryFile, numbersOf, OwnedFd, ownNumber, readAt, sizeOf, writeAllAt } from '../kernel/index.js'
import type { Failure } from '../operator/status-report.js'
import type { FirstControl } from '../os/control-path.js'
import type { Unclaimed } from '../os/service-manager/passed-sockets.js'
import type { ExitReport } from './exits.js'
import type { KnownVersion } from './known-versions.js'
import type { SupervisorState } from './machine.js'
import type { Hearing } from './probe.js'
import type { SupervisorSettings, VersionSettings } from './settings.js'
import type { SharedListener } from './shared-listeners.js'

/**
 * Where the next image of a supervisor finds what was left to it, by the number of a descriptor: `take:7`; `try:3` is said to a process
 * that is only to tell whether it could. Not for those that it starts.
 */
export const LEFT_VARIABLE = 'FD_BROKER_SUPERVISOR'

/** How it is written. Another release may have another. */
const FORMAT = 1
/** What JSON does not know: no variable of an environment has such a name. */
const NUMBER = 'fd='
const BIGINT = 'bigint='

/** A version that lives on. */
export interface LeftVersion {
  readonly id: number
  readonly pid: number
  readonly settings: VersionSettings
  readonly startedAt: number
  readonly says: string
  /** Another one serves in its place. */
  readonly replaced: boolean
  /** Where it goes on telling of itself. */
  readonly hearing: Hearing | null
  /** Where it alone is asked whether it is healthy. Absent: nowhere, or an earlier release has left it. */
  readonly place?: string | undefined
}

/** What a supervisor leaves to the program that goes on in its place, as the same process: its descriptors stay open, by their numbers. */
export interface LeftBehind {
  /** How often that has happened, with this time. */
  readonly replaced: number
  readonly settings: SupervisorSettings
  readonly startedAt: number
  readonly state: SupervisorState
  /** What an operator has put in the place of the command. */
  readonly argv: readonly string[] | null
  readonly draining: readonly number[]
  /** Absent of an earlier release. */
  readonly exits?: ExitReport
  readonly lastFailure: Failure | null
  /** What is left of them, milliseconds. */
  readonly timers: Readonly<Record<string, number>>
  readonly control: FirstControl | null
  readonly listeners: readonly SharedListener[]
  /** Of the service manager's, what nobody wanted yet. */
  readonly unclaimed: readonly Unclaimed[]
  readonly versions: readonly LeftVersion[]
  /** Absent: an earlier release has left it. */
  readonly known?: readonly KnownVersion[]
}

/** As memory that another program can read. The caller owns it; `fds`, which it names, stay their owners'. */
export function written(left: LeftBehind): { readonly memory: OwnedFd; readonly fds: OwnedFd[] } {
  const fds: OwnedFd[] = []
  const text = JSON.stringify({ format: FORMAT, ...left }, (_name, value: unknown) => {
    if (typeof value === 'bigint') return { [BIGINT]: `${value}` }
    if (!(value instanceof OwnedFd)) return value
    fds.push(value)
    return { [NUMBER]: numbersOf([value])[0], label: value.label }
  })
  const memory = memoryFile('fd-broker run', 'what a supervisor leaves')
  try {
    writeAllAt(memory, Buffer.from(text), 0)
    return { memory, fds }
  } catch (error) {
    memory.close()
    throw error
  }
}

/** What this process was started with: it goes on in the place of another image (`take`), or only says that it could. */
export interface Found {
  readonly take: boolean
  /** Null: it is of a release that writes otherwise. */
  readonly left: LeftBehind | null
}

/** Null: nothing was left to this process. Whoever takes it owns the descriptors. */
export function findLeft(): Found | null {
  const [, order, digits] = /^(take|try):(\d+)$/.exec(process.env[LEFT_VARIABLE] ?? '') ?? []
  delete process.env[LEFT_VARIABLE]
  if (digits === undefined) return null
  using memory = ownNumber(Number(digits), 'what a supervisor has left')
  const take = order === 'take'
  return { take, left: readLeft(memory, take) }
}

/**
 * What was left in this memory. `take`: the descriptors are this process's from now on; else they are null. Null: it is of a release
 * that writes otherwise. Throws what is no JSON.
 */
function readLeft(memory: OwnedFd, take: boolean): LeftBehind | null {
  const bytes = Buffer.alloc(sizeOf(memory))
  const text = bytes.toString('utf8', 0, readAt(memory, bytes, 0, bytes.length, 0))
  if (JSON.parse(text).format !== FORMAT) return null
  return JSON.parse(text, (_name, value: unknown) => {
    if (typeof value !== 'object' || value === null) return value
    if (BIGINT in value) return BigInt(String(value[BIGINT]))
    if (!(NUMBER in value)) return value
    return take ? ownNumber(Number(value[NUMBER]), String((value as { label?: unknown }).label)) : null
  })
}
