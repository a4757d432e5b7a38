import { inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec, waitingAt } from '../listeners/index.js'
import { httpQuestion } from '../probing/http-question.js'
import { NOTHING, type Probe, type ProbeEvents } from './probe.js'
import { Repeated } from './repeated-probe.js'
import type { Asking } from './settings.js'
import type { GivenListener } from './shared-listeners.js'

const PRIVATE = parseListenerSpec('tcp://127.0.0.1:0')
/** The first descriptor of a listener. */
const FIRST_FD = 3
/** Its name in LISTEN_FDNAMES. */
const NAME = 'ready'
/** A complaint about an answer, and not about none. */
const STATUS = /^GET \S+: \d{3}\b/

/** Asks at an address that the version listens at itself, or that all share. */
export function httpProbe(url: string, asking: Asking): Repeated {
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
  readonly #descriptor: number
  readonly #inode: string
  readonly #asking: Repeated
  /** The address at which it answers. */
  readonly place: string

  /** `descriptor`: its number in the version. */
  constructor(path: string, nonBlocking: boolean, asking: Asking, descriptor: number) {
    this.#descriptor = descriptor
    this.#fd = bindListener(PRIVATE)
    setBlocking(this.#fd, !nonBlocking)
    const identity = inspectOne(this.#fd)
    const address = formatAddress(identity)
    this.#inode = identity.ino
    this.listeners = [{ name: NAME, fd: this.#fd, spec: PRIVATE, address }]
    this.place = `${address.replace('tcp:', 'http:')}${path}`
    this.#asking = httpProbe(this.place, asking)
  }

  get complaint(): string | null {
    const said = this.#asking.complaint
    // A version that has answered accepts here: what waits now is the next question.
    return said !== null && STATUS.test(said) ? said : (this.#unheard() ?? said)
  }

  /** The version takes no connection here: it may serve on its first descriptor alone. */
  #unheard(): string | null {
    if (this.#fd.closed || waitingAt(this.#inode) === 0) return null
    return `it does not accept on descriptor ${this.#descriptor} (LISTEN_FDNAMES: ${NAME}), by which it alone is asked. A program that takes descriptor ${FIRST_FD} only needs a readiness of another kind: --ready http://ADDRESS/PATH at an address of its own, --ready fd, notify or delay`
  }

  begin(pid: number, events: ProbeEvents): void {
    this.#asking.begin(pid, events)
  }

  get isOpen(): boolean {
    return this.#asking.isOpen
  }

  serves(): void {
    this.#asking.serves()
    // The version has it: a process that has ended answers no connect.
    this.#fd.close()
  }

  proved(): void {
    this.#asking.proved()
  }

  settle(): void {
    this.#asking.settle()
    this.#fd.close()
  }

  [Symbol.dispose](): void {
    this.settle()
  }
}
