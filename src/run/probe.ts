import {
  closeAll,
  type OwnedFd,
  type Poll,
  READABLE,
  receiveMessage,
  socketPair,
  watch,
} from '../kernel/index.js'
import type { GivenListener } from './shared-listeners.js'

const NEWLINE = 10

export interface ProbeEvents {
  ready(): void
  /** A version that was ready no longer is. */
  failed(why: string): void
  /** It is ready again. */
  recovered(): void
  /** The version reports a status text. */
  says(text: string): void
  /** Another process is the version's main process from now on: a descendant of ours. */
  mainProcess(pid: number): void
}

/** Where a version reports, also while it serves. */
export interface Hearing {
  /** The socket's own folder; removed with the socket. */
  readonly folder: string
  readonly socket: OwnedFd
}

/** Finds out whether one version is ready. Owns what it opens. This class alone reports nothing. */
export class Probe implements Disposable {
  /** A listener that only this version gets, numbered after the shared ones. */
  readonly listeners: readonly GivenListener[] = []
  /** Other descriptors for the child, numbered after all listeners. Borrowed. */
  readonly fds: readonly OwnedFd[] = []
  readonly env: NodeJS.ProcessEnv = {}
  /** Borrowed. Absent: a version that serves reports nothing. */
  readonly hearing?: Hearing
  /** Where the version is asked, if no other version can answer there. The next image of the supervisor asks there too. */
  readonly place?: string
  /** A version that serves is still asked. */
  readonly asksServing: boolean = false

  /** The last question and its negative answer; null if the last answer was positive, or there was none. */
  get complaint(): string | null {
    return null
  }

  /** A question waits for its answer. */
  get isOpen(): boolean {
    return false
  }

  /** The version's process is running. */
  begin(_pid: number, _events: ProbeEvents): void {}

  serves(): void {
    this.settle()
  }

  /** The version has served through its probation. */
  proved(): void {}

  /** Stops asking. Idempotent. */
  settle(): void {}

  [Symbol.dispose](): void {
    this.settle()
  }
}

/** For a version that serves and is not asked. */
export const SETTLED = new Probe()

/** The version is ready once it has run for this long. */
export class DelayProbe extends Probe {
  readonly #ms: number
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number) {
    super()
    this.#ms = ms
  }

  override begin(_pid: number, events: ProbeEvents): void {
    this.#timer = setTimeout(() => events.ready(), this.#ms)
  }

  override settle(): void {
    clearTimeout(this.#timer)
  }
}

/** The version writes a line to the descriptor that FD_BROKER_READY_FD names. */
export class ReadyFdProbe extends Probe {
  override readonly fds: readonly OwnedFd[]
  override readonly env: NodeJS.ProcessEnv
  readonly #own: OwnedFd
  #poll: Poll | null = null

  /** `number`: of the descriptor in the child. */
  constructor(number: number) {
    super()
    const [own, theirs] = socketPair('readiness')
    this.#own = own
    this.fds = [theirs]
    this.env = { FD_BROKER_READY_FD: `${number}` }
  }

  override begin(_pid: number, events: ProbeEvents): void {
    closeAll(this.fds)
    const bytes = Buffer.alloc(64)
    this.#poll = watch(this.#own, () => {
      const { bytes: got } = receiveMessage(this.#own, bytes, 0, bytes.length)
      if (got < 0) return
      if (got === 0) this.settle()
      else if (bytes.subarray(0, got).includes(NEWLINE)) {
        this.settle()
        events.ready()
      }
    })
    this.#poll.start(READABLE)
  }

  override settle(): void {
    this.#poll?.close()
    this.#poll = null
    closeAll([this.#own, ...this.fds])
  }
}
