import { LONGEST_MS } from '../base/duration.js'
import { jsonObject } from '../base/json.js'
import { FdbError } from '../errors.js'

// Names and bodies of the commands that every service answers, besides those of its application.

export const RELOAD = 'service.reload'
export const ROLLBACK = 'service.rollback'
export const STOP = 'service.stop'
/** Returns the changes since the serving process was started, if it knows them. */
export const CHANGES = 'service.changes'
/** Upgrades a supervisor itself to the installed release. On success the connection ends with the old supervisor; an answer reports a failure. */
export const UPGRADE_SELF = 'service.upgrade-self'

/** Replaces the workers of a main process by their next versions, or sets their number. */
export const REPLACE_WORKERS = 'workers.replace'
export const SET_WORKERS = 'workers.set'
/** Orders a worker to accept on the listeners of dead, hung or surplus workers; the next such order replaces this one. */
export const STAND_IN = 'workers.foster'
/** Orders a worker to stop serving; its connections move to another worker. */
export const YIELD = 'workers.yield'
/** Prefix of the descriptor names with which a worker claims a listener of the other workers from its main process. */
export const GROUP_LISTENER = 'worker-listener-'

export interface StopOrder {
  /** Time limit for the last connections, or null for the configured one. */
  readonly timeoutMs: number | null
  /** For a daemon: stop even if only the daemon holds descriptors or state of a service. */
  readonly drop: boolean
}

/** Identifies the process that executes a command. */
export interface ProcessReply {
  readonly pid: number
  readonly generation: number
}

/** Names of the things that have changed since the process loaded them. */
export interface ChangeReport {
  readonly code: readonly string[]
  /** Changed keys of the configuration that only the next process applies. */
  readonly next: readonly string[]
  readonly configuration: readonly string[]
}

/** A supervisor's reply to a reload: the names of the changed options. */
export interface ReloadReply extends ProcessReply {
  /** Options that apply at once. */
  readonly now: readonly string[]
  /** Options that apply to the next version. */
  readonly next: readonly string[]
  /** Options that apply after a restart of the supervisor. */
  readonly restart: readonly string[]
}

export function stopBody({ timeoutMs, drop }: StopOrder): string {
  return JSON.stringify({ timeoutMs, drop })
}

/** Reads a stop order; another release may omit fields. Throws ERR_FDB_MESSAGE. */
export function readStopOrder(body: Buffer): StopOrder {
  const { timeoutMs, drop } = read(body)
  const limited = typeof timeoutMs === 'number' && timeoutMs >= 0
  return { timeoutMs: limited ? Math.min(timeoutMs, LONGEST_MS) : null, drop: drop === true }
}

/** Returns the body of a rollback command, which requires that the link at `at` then points to the previous version. Tools of earlier releases send none. */
export function rollbackBody(at: string | null): string {
  return at === null ? '' : JSON.stringify({ at })
}

/** Throws ERR_FDB_MESSAGE. */
export function rollbackAt(body: Buffer): string | null {
  const { at } = read(body)
  return typeof at === 'string' ? at : null
}

/** Describes who requested a rollback, for the status of the version that was rolled back. */
export function rollbackBy(by: { readonly pid: number; readonly uid: number } | undefined): string {
  return by === undefined ? 'fd-broker rollback' : `fd-broker rollback by uid ${by.uid} (pid ${by.pid})`
}

export function processReply(told: ProcessReply): Buffer {
  return Buffer.from(JSON.stringify(told))
}

export function readProcessReply(reply: Buffer): ProcessReply {
  const { pid, generation } = read(reply)
  return { pid: Number(pid) || 0, generation: Number(generation) || 0 }
}

/** Throws ERR_FDB_MESSAGE. */
export function readChanges(reply: Buffer): ChangeReport {
  const { code, next, configuration } = read(reply)
  return { code: namesIn(code), next: namesIn(next), configuration: namesIn(configuration) }
}

/** Returns null if the reply is not from a supervisor and lists no options. */
export function readReloadReply(reply: Buffer): ReloadReply | null {
  const { now, next, restart } = read(reply)
  if (![now, next, restart].every(Array.isArray)) return null
  return { ...readProcessReply(reply), now: namesIn(now), next: namesIn(next), restart: namesIn(restart) }
}

function namesIn(value: unknown): string[] {
  return Array.isArray(value) ? value.map(String) : []
}

function read(body: Buffer): Record<string, unknown> {
  if (body.length === 0) return {}
  const value = jsonObject(body.toString())
  if (value !== undefined) return value
  throw new FdbError('ERR_FDB_MESSAGE', `${body.length} bytes of a service command are not a JSON object`)
}

/** The error for a rollback when the previous version can no longer take over. */
export function noStandbyError(serving: string): FdbError {
  return new FdbError(
    'ERR_FDB_NO_STANDBY',
    `no process stands by for ${serving}: the probation of ${serving} is over, or it is the first version. To return to the previous release, start it as the next version: fd-broker upgrade -- COMMAND`,
  )
}
