import { jsonObject } from '../base/json.js'
import { FdbError } from '../errors.js'
import type { Requester } from './requester.js'

/** The types of the events of a service, with their meaning: `docs/operating.md` has this table. */
export const EVENT_TYPES = {
  'service.started': 'the first process of the service serves',
  'service.unserved':
    'the serving process (`process`) has ended, and no other one stands by: the daemon keeps the listeners and the state',
  'daemon.restarted': 'a daemon that was started again knows which process serves (`process`)',
  'upgrade.ordered': 'an operator, or the program, orders an upgrade',
  'upgrade.failed': 'the upgrade has failed (`code`, `reason`): the process that served serves on',
  'rollback.ordered': 'an operator orders a rollback',
  'reload.ordered': 'an operator orders a reload',
  'stop.ordered': 'an operator orders the service to stop',
  'handoff.offered': 'the next version (`process`) has joined and gets the listeners and the state',
  'handoff.quiescing':
    'the next version is ready; the serving process ends its once-only work (no event if it has none)',
  'handoff.freezing': 'the serving process stops writing (no event if that takes no time)',
  'handoff.sealed': 'the state is sealed; the next version reads it to the end',
  'handoff.failed':
    'the handoff is given up before the Commit (`code`, `reason`, `phase`): the process that served serves on',
  'handoff.committed': 'the Commit: the next version (`process`) has the right to serve',
  'handoff.serving': 'the next version (`process`) serves; the previous one stands by in the probation',
  'handoff.kept': 'the probation is over, and the previous version leaves',
  'rollback.started':
    'the next version (`process`) does not serve on (`code`, `reason`): the previous one gets the right to serve',
  'rollback.serving':
    'the previous version serves again (under fd-broker run, `process` is its new process); after `daemon.restarted`: the serving one writes again',
  'version.started': 'fd-broker run has started a version (`process`)',
  'version.serving': 'a version (`process`) serves',
  'version.kept': 'the probation of a version (`process`) that an upgrade has started is over',
  'version.ended': 'a version (`process`) has ended (`reason`)',
  'version.failed': 'a version is not started, or not kept (`code`, `reason`)',
  'version.delayed': 'no version runs, and the next one starts after a delay (`reason`)',
  'signal.forwarded': 'fd-broker run has forwarded a signal (`reason`) to its versions',
  'hook.ended': 'a hook has ended (`hook`)',
  'hook.failed': 'a hook has failed, or was ended at its limit (`hook`, `reason`)',
  'drain.ended': 'a process that was replaced has ended its last connections (`counts`)',
} as const

export type EventType = keyof typeof EVENT_TYPES

/** The facts of an event. */
export interface EventFacts {
  /** The number of the version, under fd-broker run. */
  readonly generation?: number
  /** The pid of the other process that the event is about. */
  readonly process?: number
  readonly epoch?: number
  /** The phase in which a handoff failed. */
  readonly phase?: string
  readonly code?: string
  readonly reason?: string
  readonly hook?: string
  readonly counts?: Readonly<Record<string, number>>
  /** The sender of the order. Absent if the program itself gives it, or if a daemon forwards it. */
  readonly by?: Requester
}

/** Returns the facts of the event of a failure. */
export function failureFacts(error: unknown): EventFacts {
  const { code, message } = FdbError.from(error)
  return { code, reason: message }
}

/** A phase or decision of an upgrade, a rollback or a stop. */
export interface ServiceEvent extends EventFacts {
  /** Counts from 1 over all versions of the service: no number is missing, none is used twice. */
  readonly number: number
  /** Milliseconds since 1970. */
  readonly at: number
  readonly type: EventType
  /** The service; of workers, that of one of them, or `fd-broker.daemon` of their main process. */
  readonly service: string
  /** The process that recorded the event, and its generation. */
  readonly pid: number
  readonly generation: number
}

/** The number of events that a service keeps. */
export const KEPT_EVENTS = 1_000
/** The command that returns a page of the kept events. */
export const EVENTS_COMMAND = 'fd-broker.events'

/** A part of the kept events, in order. */
export interface EventPage {
  /** Distinguishes these events from those in another file, whose numbers begin again; '' if there are none yet. */
  readonly log: string
  readonly events: readonly ServiceEvent[]
  /** The number of the oldest event that the service keeps. */
  readonly first: number
  /** The number from which the next page begins. */
  readonly next: number
  /** Whether `next` is the number of an event that has not happened yet. */
  readonly end: boolean
}

export function eventsBody(from: number): string {
  return JSON.stringify({ from })
}

/** Throws ERR_FDB_MESSAGE. */
export function readEventsBody(body: Buffer): number {
  const from = jsonObject(body.toString())?.from
  if (typeof from === 'number' && Number.isSafeInteger(from) && from >= 1) return from
  throw new FdbError('ERR_FDB_MESSAGE', `the first event is asked for by a number from 1, not by ${body}`)
}

/** Throws ERR_FDB_MESSAGE. */
export function readEventPage(reply: Buffer): EventPage {
  const page = jsonObject(reply.toString()) as Partial<EventPage> | undefined
  const { log = '', events, first, next, end } = page ?? {}
  if (Array.isArray(events) && Number.isSafeInteger(first) && Number.isSafeInteger(next))
    return { log, events, first: first!, next: next!, end: end !== false }
  throw new FdbError('ERR_FDB_MESSAGE', `${reply.length} bytes of the answer are no page of events`)
}
