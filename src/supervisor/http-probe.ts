import { inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../listeners/index.js'
import { httpQuestion } from '../probing/http-question.js'
import { NOTHING, type Probe, type ProbeEvents } from './probe.js'
import { Repeated } from './repeated-probe.js'
import type { Asking } from './settings.js'
import type { GivenListener } from './shared-listeners.js'

const PRIVATE = parseListenerSpec('tcp://127.0.0.1:0')
/** Its name in LISTEN_FDNAMES. */
const NAME = 'ready'

/** Asks at an address that the version listens at itself, or that all share. */
export function httpProbe(url: string, asking: Asking): Probe {
  return new Repeated(() => httpQuestion(url), asking)
}

/**
 * Asks through a listener that is given to this version alone: what answers is this version, and not the one that
 * serves. `path` begins with a slash.
 */
export class PrivateHttpProbe implements Probe {
  readonly listeners: readonly GivenListener[]
  readonly fds = NOTHING.fds
  readonly env = NOTHING.env
  readonly #fd: OwnedFd
  readonly #asking: Probe

  constructor(path: string, nonBlocking: boolean, asking: Asking) {
    this.#fd = bindListener(PRIVATE)
    setBlocking(this.#fd, !nonBlocking)
    const address = formatAddress(inspectOne(this.#fd))
    this.listeners = [{ name: NAME, fd: this.#fd, spec: PRIVATE, address }]
    this.#asking = httpProbe(`${address.replace('tcp:', 'http:')}${path}`, asking)
  }

  get complaint(): string | null {
    return this.#asking.complaint ?? null
  }

  begin(pid: number, events: ProbeEvents): void {
    this.#asking.begin(pid, events)
  }

  settle(): void {
    this.#asking.settle()
    this.#fd.close()
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
