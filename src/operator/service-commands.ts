import { agoText, LONGEST_MS } from '../base/duration.js'
import { jsonObject } from '../base/json.js'
import { FdbError } from '../errors.js'
import type { EventType } from '../events/events.js'
import type { UnfitReport } from './status-report.js'

// Names and bodies of the commands that services answer in addition to those of their applications.

export const RELOAD = 'service.reload'
export const ROLLBACK = 'service.rollback'
export const STOP = 'service.stop'
/** The events of orders. The daemon records those that it forwards, a member those of its own operators. */
export const ORDER_EVENTS: ReadonlyMap<string, EventType> = new Map([
  [RELOAD, 'reload.ordered'],
  [ROLLBACK, 'rollback.ordered'],
  [STOP, 'stop.ordered'],
])
/** Returns the gauges of the metrics of a process as JSON; of a main process, a list of those of its workers. */
export const GAUGES = 'fd-broker.gauges'
/** A worker that does not answer within this time is left out. */
export const GAUGES_MS = 500
/** Returns the files and settings that have changed since the serving process loaded them. */
export const CHANGES = 'service.changes'
/** Makes a supervisor execute its installed release. On success the connection ends without an answer; an answer reports a failure. */
export const UPGRADE_SELF = 'service.upgrade-self'

/** Makes a main process replace its workers by their next versions. */
export const REPLACE_WORKERS = 'workers.replace'
/** Makes a main process change the number of its workers. */
export const SET_WORKERS = 'workers.set'
/** Orders a worker to accept on listeners of dead, hung or surplus workers. Replaces the previous such order. */
export const STAND_IN = 'workers.foster'
/** Orders a worker to stop serving; its connections move to another worker. */
export const YIELD = 'workers.yield'
/** Prefix of a descriptor name: by this name a worker claims another worker's listener from the main process. */
export const GROUP_LISTENER = 'worker-listener-'

export interface StopOrder {
  /** Time limit for the last connections in milliseconds; null: the configured one. */
  readonly timeoutMs: number | null
  /**
   * For a daemon: stop even if this loses a service's descriptors or state, because no other process has them. For a worker: its main process ends
   * too, so no process will accept on its listeners.
   */
  readonly drop: boolean
  /** For a worker: others still change the state through it. When its last requests are answered it goes on until the next order, which lacks this. */
  readonly isFollowed?: boolean
}

/** The reply to a command: the process that executes it. */
export interface ProcessReply {
  readonly pid: number
  readonly generation: number
}

/** The files and settings that have changed since the process loaded them. */
export interface ChangeReport {
  /** Files with code. */
  readonly code: readonly string[]
  /** Keys of the configuration whose new value only the next process applies. */
  readonly next: readonly string[]
  /** Keys of the configuration whose new value a reload applies. */
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

export function stopBody({ timeoutMs, drop, isFollowed = false }: StopOrder): string {
  return JSON.stringify({ timeoutMs, drop, ...(isFollowed && { followed: true }) })
}

/** Reads a stop order; another release may omit fields. Throws ERR_FDB_MESSAGE. */
export function readStopOrder(body: Buffer): StopOrder {
  const { timeoutMs, drop, followed } = read(body)
  const limited = typeof timeoutMs === 'number' && timeoutMs >= 0
  return {
    timeoutMs: limited ? Math.min(timeoutMs, LONGEST_MS) : null,
    drop: drop === true,
    isFollowed: followed === true,
  }
}

/** Returns the body of a rollback command. With `at` the rollback fails if it cannot switch this release link back. */
export function rollbackBody(at: string | null): string {
  return at === null ? '' : JSON.stringify({ at })
}

/** Returns the release link that a rollback must switch back, or null. Throws ERR_FDB_MESSAGE. */
export function rollbackAt(body: Buffer): string | null {
  const { at } = read(body)
  return typeof at === 'string' ? at : null
}

/** Names the operator of a rollback, for the failure of the version that was rolled back. */
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

/** Returns null for the reply of a process that is not a supervisor, which lists no options. */
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

/**
 * Returns the error of a rollback if the previous version cannot take over again. `unfit`: its reason, if it stands by. `overMs`: how long ago the
 * probation of the serving version ended; null if that is unknown, or if it had none.
 */
export function noStandbyError(serving: string, unfit: UnfitReport | null, overMs: number | null): FdbError {
  const over = overMs === null ? 'is over, or it is the first version' : `ended ${agoText(overMs)}`
  const why =
    unfit === null
      ? `no process stands by for ${serving}: its probation ${over}`
      : `the process that stands by for ${serving} cannot take over again, so ${serving} keeps serving (${unfit.code}: ${unfit.message})`
  return new FdbError(
    'ERR_FDB_NO_STANDBY',
    `${why}. To return to the previous release, start it as the next version: fd-broker upgrade -- COMMAND`,
    unfit === null ? {} : { details: { reason: unfit.code } },
  )
}
