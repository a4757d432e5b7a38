import type { OwnedFd } from '../kernel/index.js'
import type { GivenListener } from './shared-listeners.js'

export interface ProbeEvents {
  ready(): void
  /** It is not ready any more, and was. */
  failed(why: string): void
  /** It is ready again. */
  recovered(): void
  /** What it says of itself in words. */
  says(text: string): void
  /** Another process has taken its place, and is a descendant of ours. */
  mainProcess(pid: number): void
}

/** Where a version tells of itself, also when it serves. */
export interface Hearing {
  /** Of the socket: it goes with it. */
  readonly folder: string
  readonly socket: OwnedFd
}

/** Finds out about one version whether it is ready. Owns what it has opened. */
export interface Probe extends Disposable {
  /** A listener that this version alone has, behind the shared ones. */
  readonly listeners: readonly GivenListener[]
  /** Further descriptors of the child, behind all listeners. Lent. */
  readonly fds: readonly OwnedFd[]
  readonly env: NodeJS.ProcessEnv
  /** Lent. Absent: of a version that serves nothing is heard any more. */
  readonly hearing?: Hearing
  /** What was asked of it last, and what it answered, if that was no yes. */
  readonly complaint?: string | null
  /** Its process runs. */
  begin(pid: number, events: ProbeEvents): void
  /** A question waits for its answer. */
  readonly isOpen?: boolean
  /** Where it is asked, if no other version can answer there: for the image that goes on in place of this one. */
  readonly place?: string
  /** It serves: what can be asked is asked on. Absent: nothing can be, and the probe is settled. */
  serves?(): void
  /** It has served through its probation: it is asked seldom from now on. */
  proved?(): void
  /** It is not asked any more. Idempotent. */
  settle(): void
}

/** What most of them have not. */
export const NOTHING = { listeners: [], fds: [], env: {} } as const

/** Of a version that serves: nothing is asked. */
export const SETTLED: Probe = { ...NOTHING, begin() {}, settle() {}, [Symbol.dispose]() {} }
