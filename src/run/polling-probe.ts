import { inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec, waitingAt } from '../listeners/index.js'
import { askAgain, type Question } from '../probing/question.js'
import { Probe, type ProbeEvents } from './probe.js'
import type { Asking } from './settings.js'
import type { GivenListener } from './shared-listeners.js'

/** The interval while the version is not ready yet, while it is on trial or in probation, and after that. */
const STARTING_MS = 100
const UNPROVED_MS = 250
const PROVED_MS = 5_000
/** A version that has proved itself may be busy: it fails after this many negative answers in a row. */
const PATIENCE = 3

const PRIVATE_SPEC = parseListenerSpec('tcp://127.0.0.1:0')
/** The name of the private listener in LISTEN_FDNAMES. */
const PRIVATE_NAME = 'ready'
/** The number of the first listener. */
const FIRST_FD = 3
/** A complaint about an answer, not about a missing one. */
const STATUS = /^GET \S+: \d{3}\b/

/** Asks until enough answers in a row are positive, then goes on while the version serves and reports each change. */
export class PollingProbe extends Probe {
  override readonly asksServing: boolean
  readonly #questionTo: (pid: number) => Question
  readonly #asking: Asking
  readonly #stopped = new AbortController()
  #last: string | null = null
  #isOpen = false
  #isReady = false
  #serves = false
  #isProved = false

  /** `questionTo`: the question for the version with this process. */
  constructor(questionTo: (pid: number) => Question, asking: Asking, asksServing = true) {
    super()
    this.#questionTo = questionTo
    this.#asking = asking
    this.asksServing = asksServing
  }

  override get complaint(): string | null {
    return this.#last
  }

  override get isOpen(): boolean {
    return this.#isOpen
  }

  override begin(pid: number, events: ProbeEvents): void {
    const { interval, timeout, passes } = this.#asking
    const usual = () => (this.#isProved ? PROVED_MS : this.#isReady ? UNPROVED_MS : STARTING_MS)
    let [passed, failed, sick] = [0, 0, false]
    const { asked, ask } = this.#questionTo(pid)
    const question: Question = {
      asked,
      ask: signal => {
        this.#isOpen = true
        return ask(signal)
      },
    }
    const pace = () => ({ timeout, interval: interval ?? usual() })
    void askAgain(question, pace, this.#stopped.signal, why => {
      this.#isOpen = false
      this.#last = why
      passed = why === null ? passed + 1 : 0
      failed = why === null ? 0 : failed + 1
      if (!this.#isReady) {
        if (passed < passes) return
        this.#isReady = true
        events.ready()
      } else if (why !== null && !sick && failed >= (this.#isProved ? PATIENCE : 1)) {
        sick = true
        // Before the version serves, one failure is final.
        if (!this.#serves) this.settle()
        events.failed(why)
      } else if (sick && passed >= passes) {
        sick = false
        events.recovered()
      }
    })
  }

  override serves(): void {
    if (!this.asksServing) {
      this.settle()
      return
    }
    this.#isReady = true
    this.#serves = true
  }

  override proved(): void {
    this.#isProved = true
  }

  override settle(): void {
    this.#stopped.abort()
  }
}

/** Asks through a listener that only this version has, so that the version that serves cannot answer. */
export class PrivateListenerProbe extends PollingProbe {
  override readonly listeners: readonly GivenListener[]
  override readonly place: string
  readonly #fd: OwnedFd
  readonly #inode: string
  readonly #descriptor: number

  /** `path` begins with a slash; `descriptor`: the listener's number in the version. */
  constructor(
    path: string,
    { asking, nonBlocking }: { readonly asking: Asking; readonly nonBlocking: boolean },
    descriptor: number,
    questionAt: (url: string) => Question,
  ) {
    const fd = bindListener(PRIVATE_SPEC)
    setBlocking(fd, !nonBlocking)
    const identity = inspectOne(fd)
    const address = formatAddress(identity)
    const place = `${address.replace('tcp:', 'http:')}${path}`
    super(() => questionAt(place), asking)
    this.place = place
    this.listeners = [{ name: PRIVATE_NAME, fd, spec: PRIVATE_SPEC, address }]
    this.#fd = fd
    this.#inode = identity.ino
    this.#descriptor = descriptor
  }

  override get complaint(): string | null {
    const said = super.complaint
    // A version that has answered accepts here: a connection that waits now is the next question.
    return said !== null && STATUS.test(said) ? said : (this.#notAccepted() ?? said)
  }

  /** The version may serve on its first descriptor alone. */
  #notAccepted(): string | null {
    if (this.#fd.closed || waitingAt(this.#inode) === 0) return null
    return `it does not accept on descriptor ${this.#descriptor} (LISTEN_FDNAMES: ${PRIVATE_NAME}), by which it alone is asked. A program that takes descriptor ${FIRST_FD} only needs a readiness of another kind: --ready http://ADDRESS/PATH at an address of its own, --ready fd, notify or delay`
  }

  override serves(): void {
    super.serves()
    // The version has the listener: after its process ends no connection succeeds.
    this.#fd.close()
  }

  override settle(): void {
    super.settle()
    this.#fd.close()
  }
}
