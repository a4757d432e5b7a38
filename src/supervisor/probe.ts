import type { OwnedFd } from '../kernel/index.js'
import type { GivenListener } from './shared-listeners.js'

export interface ProbeEvents {
  ready(): void
  /** It is not ready any more, and was. */
  failed(why: string): void
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
  /** What is asked only until it serves is not asked any more. Idempotent. */
  settle(): void
}

/** What most of them have not. */
export const NOTHING = { listeners: [], fds: [], env: {} } as const

/** Of a version that serves: nothing is asked. */
export const SETTLED: Probe = { ...NOTHING, begin() {}, settle() {}, [Symbol.dispose]() {} }
