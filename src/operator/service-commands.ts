import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'

/** Commands that every service answers beside those of its application: names and bodies. */
export const RELOAD = 'service.reload'
export const ROLLBACK = 'service.rollback'
export const STOP = 'service.stop'
/** Changes since the serving process was started, if it knows them. */
export const CHANGES = 'service.changes'
/** Upgrades a supervisor itself to the installed release. The connection ends with the old one; an answer is a failure. */
export const UPGRADE_SELF = 'service.upgrade-self'

/** Replaces the workers of a main process by their next versions, or sets their number. */
export const REPLACE_WORKERS = 'workers.replace'
export const SET_WORKERS = 'workers.set'
/** Tells a worker to accept for another one too that was not replaced; until it is told to stop that. */
export const STAND_IN = 'workers.foster'
/** Tells a worker to leave; its connections go on in another one. */
export const YIELD = 'workers.yield'
/** Prefix of the descriptor names by which a worker asks its main process for a listener of the others. */
export const GROUP_LISTENER = 'worker-listener-'

export interface StopOrder {
  /** For the last connections, milliseconds; null: as the service is configured. */
  readonly timeoutMs: number | null
  /** Daemon: also when it alone holds a service. */
  readonly drop: boolean
}

/** The process that leaves, or stays. */
export interface ProcessReply {
  readonly pid: number
  readonly generation: number
}

/** By name: of what is not as it was when the process loaded it. */
export interface Changes {
  readonly code: readonly string[]
  /** Changed keys of the configuration that only the next process applies. */
  readonly next: readonly string[]
  readonly configuration: readonly string[]
}

/** Changed options of a supervisor's settings. */
export interface ReloadReply extends ProcessReply {
  /** They count at once. */
  readonly now: readonly string[]
  /** With the next version. */
  readonly next: readonly string[]
  /** When the supervisor itself is started anew. */
  readonly restart: readonly string[]
}

export function stopBody({ timeoutMs, drop }: StopOrder): string {
  return JSON.stringify({ timeoutMs, drop })
}

/** Another release may leave fields out, or write them otherwise. Throws ERR_FDB_MESSAGE. */
export function readStopOrder(body: Buffer): StopOrder {
  const { timeoutMs, drop } = read(body)
  const limited = typeof timeoutMs === 'number' && timeoutMs >= 0
  return { timeoutMs: limited ? Math.min(timeoutMs, LONGEST_MS) : null, drop: drop === true }
}

/** `at`: only if the link at this path leads to the version before then. Empty of a tool of an earlier release. */
export function rollbackBody(at: string | null): string {
  return at === null ? '' : JSON.stringify({ at })
}

/** Throws ERR_FDB_MESSAGE. */
export function rollbackAt(body: Buffer): string | null {
  const { at } = read(body)
  return typeof at === 'string' ? at : null
}

/** A rollback in words, for the status of what it leaves behind. */
export function rollbackBy(by: { readonly pid: number; readonly uid: number } | undefined): string {
  return by === undefined ? 'fd-broker rollback' : `fd-broker rollback by uid ${by.uid} (pid ${by.pid})`
}

export function processReply(told: ProcessReply): string {
  return JSON.stringify(told)
}

export function readProcessReply(reply: Buffer): ProcessReply {
  const { pid, generation } = read(reply)
  return { pid: Number(pid) || 0, generation: Number(generation) || 0 }
}

export function changesReply(changes: Changes): string {
  return JSON.stringify(changes)
}

/** Throws ERR_FDB_MESSAGE. */
export function readChanges(reply: Buffer): Changes {
  const { code, next, configuration } = read(reply)
  const names = (value: unknown) => (Array.isArray(value) ? value.map(String) : [])
  return { code: names(code), next: names(next), configuration: names(configuration) }
}

/** Null: it is none of a supervisor, and says no more. */
export function readReloadReply(reply: Buffer): ReloadReply | null {
  const { now, next, restart } = read(reply)
  if (![now, next, restart].every(Array.isArray)) return null
  const names = (list: unknown) => (list as unknown[]).map(String)
  return { ...readProcessReply(reply), now: names(now), next: names(next), restart: names(restart) }
}

function read(body: Buffer): Record<string, unknown> {
  if (body.length === 0) return {}
  try {
    const value: unknown = JSON.parse(body.toString())
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {
    // The error follows below.
  }
  throw new FdbError('ERR_FDB_MESSAGE', `${body.length} bytes of a command of the service are no JSON object`)
}

/** The error for a service whose former version cannot come back. */
export function noStandbyError(whom: string): FdbError {
  return new FdbError(
    'ERR_FDB_NO_STANDBY',
    `nobody stands by for ${whom}: its probation is over, or it was the first. Upgrade to the release before: fd-broker upgrade -- COMMAND`,
  )
}
