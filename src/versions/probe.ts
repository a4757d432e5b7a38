import { chmodSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { durationMs } from '../base/duration.js'
import { FdbError } from '../errors.js'
import {
  bindSocket,
  closeAll,
  inspectOne,
  type OwnedFd,
  type PeerCredentials,
  type Poll,
  READABLE,
  receiveMessage,
  setBlocking,
  setSocketOption,
  socketPair,
  watch,
} from '../kernel/index.js'
import {
  acceptQueueLength,
  bindListener,
  formatAddress,
  type ListenerSpec,
  parseListenerSpec,
} from '../listeners/index.js'
import { ancestryOf } from '../os/main-process.js'
import { type NotifyMessage, NotifyReceiver } from '../os/service-manager/notify-receiver.js'
import { CHECK_PARSERS, type CheckSpec, type HealthCheck, repeatCheck } from '../probing/health-check.js'
import { type ChildStarter, childShell } from '../probing/shell.js'
import { temporaryFolder } from '../probing/temporary-folder.js'

const NEWLINE = 10

/** A listener of a version. The descriptor is borrowed. */
export interface GivenListener {
  readonly name: string
  readonly fd: OwnedFd
  readonly spec: ListenerSpec
  /** The bound address: `tcp://127.0.0.1:8080`. */
  readonly address: string
}

export interface ProbeEvents {
  ready(): void
  /** A version that was ready no longer is. */
  failed(why: string): void
  /** A version that had failed is ready again. */
  recovered(): void
  /** The version reports a status text. */
  statusText(text: string): void
  /** Another process, which descends from this one, is the version's main process. */
  mainProcess(pid: number): void
}

/** The notify socket on which a version reports, also while it serves. */
export interface NotifyEndpoint {
  /** The socket's own folder, removed with it. */
  readonly folder: string
  readonly socket: OwnedFd
}

/** Finds out whether a version is ready. Owns what it opens. The base class reports nothing. */
export class Probe implements Disposable {
  /** A listener for this version alone, numbered after the shared ones. */
  readonly listeners: readonly GivenListener[] = []
  /** Further descriptors for the version, numbered after all listeners. Borrowed. */
  readonly fds: readonly OwnedFd[] = []
  readonly env: NodeJS.ProcessEnv = {}
  /** The endpoint on which the version reports; borrowed. Absent: the version does not report. */
  readonly notifyEndpoint?: NotifyEndpoint
  /** URL at which only this version answers. The next image of the supervisor uses it too. */
  readonly url?: string
  /** Whether health checks continue while the version serves. */
  readonly asksServing: boolean = false

  /** The last health check, if it failed; otherwise null. */
  get complaint(): string | null {
    return null
  }

  /** Whether a health check waits for its answer. */
  get isOpen(): boolean {
    return false
  }

  start(_pid: number, _events: ProbeEvents): void {}

  markServing(): void {
    this.stop()
  }

  /** The version has completed its probation. */
  markProven(): void {}

  /** Stops asking. Idempotent. */
  stop(): void {}

  [Symbol.dispose](): void {
    this.stop()
  }
}

/** The probe of a serving version that is not checked. */
export const NO_PROBE = new Probe()

/** The version is ready once it has run for this long. */
export class DelayProbe extends Probe {
  readonly #ms: number
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number) {
    super()
    this.#ms = ms
  }

  override start(_pid: number, events: ProbeEvents): void {
    this.#timer = setTimeout(() => events.ready(), this.#ms)
  }

  override stop(): void {
    clearTimeout(this.#timer)
  }
}

/** The version writes a line to the descriptor that FD_BROKER_READY_FD names. */
export class ReadyFdProbe extends Probe {
  override readonly fds: readonly OwnedFd[]
  override readonly env: NodeJS.ProcessEnv
  readonly #own: OwnedFd
  #poll: Poll | null = null

  /** `number` is the descriptor's number in the version. */
  constructor(number: number) {
    super()
    const [own, theirs] = socketPair('readiness')
    this.#own = own
    this.fds = [theirs]
    this.env = { FD_BROKER_READY_FD: `${number}` }
  }

  override start(_pid: number, events: ProbeEvents): void {
    closeAll(this.fds)
    const bytes = Buffer.alloc(64)
    this.#poll = watch(this.#own, () => {
      const { bytes: got } = receiveMessage(this.#own, bytes)
      if (got < 0) return
      if (got === 0) this.stop()
      else if (bytes.subarray(0, got).includes(NEWLINE)) {
        this.stop()
        events.ready()
      }
    })
    this.#poll.start(READABLE)
  }

  override stop(): void {
    this.#poll?.close()
    this.#poll = null
    closeAll([this.#own, ...this.fds])
  }
}

/** Check intervals before the version is ready, on trial or in probation, and after that. */
const STARTING_MS = 100
const UNPROVEN_MS = 250
const PROVEN_MS = 5_000
/** A proven version may be busy: it fails after this many failed checks in a row. */
const PROVEN_FAILURES = 3

const PRIVATE_SPEC = parseListenerSpec('tcp://127.0.0.1:0')
/** Name of the private listener in LISTEN_FDNAMES. */
const PRIVATE_NAME = 'ready'
/** Matches a failed check that got an HTTP status. */
const HTTP_STATUS = /^GET \S+: \d{3}\b/

/** Asks until enough checks in a row pass, then continues while the version serves and reports each change. */
export class PollingProbe extends Probe {
  override readonly asksServing: boolean
  readonly #questionTo: (pid: number) => HealthCheck
  readonly #timing: CheckTiming
  readonly #stopped = new AbortController()
  #last: string | null = null
  #isOpen = false
  #isReady = false
  #serves = false
  #isProved = false

  /** `questionTo` returns the question for a version by its pid. */
  constructor(questionTo: (pid: number) => HealthCheck, asking: CheckTiming, asksServing = true) {
    super()
    this.#questionTo = questionTo
    this.#timing = asking
    this.asksServing = asksServing
  }

  override get complaint(): string | null {
    return this.#last
  }

  override get isOpen(): boolean {
    return this.#isOpen
  }

  override start(pid: number, events: ProbeEvents): void {
    const { interval, timeout, passes } = this.#timing
    const usual = () => (this.#isProved ? PROVEN_MS : this.#isReady ? UNPROVEN_MS : STARTING_MS)
    let [passed, failed, sick] = [0, 0, false]
    const { name: asked, run: ask } = this.#questionTo(pid)
    const question: HealthCheck = {
      name: asked,
      run: signal => {
        this.#isOpen = true
        return ask(signal)
      },
    }
    const pace = () => ({ timeout, interval: interval ?? usual() })
    void repeatCheck(question, pace, this.#stopped.signal, why => {
      this.#isOpen = false
      this.#last = why
      passed = why === null ? passed + 1 : 0
      failed = why === null ? 0 : failed + 1
      if (!this.#isReady) {
        if (passed < passes) return
        this.#isReady = true
        events.ready()
      } else if (why !== null && !sick && failed >= (this.#isProved ? PROVEN_FAILURES : 1)) {
        sick = true
        // Before the version serves, one failed check is final.
        if (!this.#serves) this.stop()
        events.failed(why)
      } else if (sick && passed >= passes) {
        sick = false
        events.recovered()
      }
    })
  }

  override markServing(): void {
    if (!this.asksServing) {
      this.stop()
      return
    }
    this.#isReady = true
    this.#serves = true
  }

  override markProven(): void {
    this.#isProved = true
  }

  override stop(): void {
    this.#stopped.abort()
  }
}

/** Asks through a listener that only this version has, so that the serving version cannot answer. */
class PrivateListenerProbe extends PollingProbe {
  override readonly listeners: readonly GivenListener[]
  override readonly url: string
  readonly #fd: OwnedFd
  readonly #inode: string
  readonly #descriptor: number

  /** `path` begins with a slash; `descriptor` is the listener's number in the version. */
  constructor(
    path: string,
    { asking, nonBlocking }: { readonly asking: CheckTiming; readonly nonBlocking: boolean },
    descriptor: number,
    questionAt: (url: string) => HealthCheck,
  ) {
    const fd = bindListener(PRIVATE_SPEC)
    setBlocking(fd, !nonBlocking)
    const identity = inspectOne(fd)
    const address = formatAddress(identity)
    const place = `${address.replace('tcp:', 'http:')}${path}`
    super(() => questionAt(place), asking)
    this.url = place
    this.listeners = [{ name: PRIVATE_NAME, fd, spec: PRIVATE_SPEC, address }]
    this.#fd = fd
    this.#inode = identity.ino
    this.#descriptor = descriptor
  }

  override get complaint(): string | null {
    const complaint = super.complaint
    // A version that has answered does accept: the waiting connection is the next check.
    return complaint !== null && HTTP_STATUS.test(complaint) ? complaint : (this.#notAccepted() ?? complaint)
  }

  /** Detects a version that accepts on its first descriptor only. */
  #notAccepted(): string | null {
    if (this.#fd.closed || acceptQueueLength(this.#inode) === 0) return null
    return `it does not accept on descriptor ${this.#descriptor} (LISTEN_FDNAMES: ${PRIVATE_NAME}), by which it alone is asked. A program that takes descriptor ${FIRST_FD} only needs a readiness of another kind: --ready http://ADDRESS/PATH at an address of its own, --ready fd, notify or delay`
  }

  override markServing(): void {
    super.markServing()
    // The version keeps its copy; once its process ends, connections are refused.
    this.#fd.close()
  }

  override stop(): void {
    super.stop()
    this.#fd.close()
  }
}

/**
 * The version uses sd_notify(3): READY=1, STATUS=, MAINPID=. Each version has its own socket. Only messages from this user, from root, or
 * from a process of the version (which may have changed its user) count, by the kernel's credentials.
 */
export class NotifyProbe extends Probe {
  override readonly env: NodeJS.ProcessEnv
  override readonly notifyEndpoint: NotifyEndpoint
  #receiver: NotifyReceiver | null = null

  /** Owns the endpoint, which an earlier image may have opened for this version. */
  constructor(notifyEndpoint: NotifyEndpoint = openNotifyEndpoint()) {
    super()
    this.notifyEndpoint = notifyEndpoint
    this.env = { NOTIFY_SOCKET: pathIn(notifyEndpoint.folder) }
  }

  override start(pid: number, events: ProbeEvents): void {
    const { socket } = this.notifyEndpoint
    /** Current and former main processes of the version. */
    const roots = new Set([pid])
    const endpointEvents = {
      ...events,
      mainProcess: (main: number) => {
        roots.add(main)
        events.mainProcess(main)
      },
    }
    this.#receiver = new NotifyReceiver(socket, message => {
      if (mayReport(message.from, roots)) report(message, endpointEvents)
    })
  }

  /** stop() keeps the socket open: MAINPID and STATUS may change while the version serves. */
  override [Symbol.dispose](): void {
    this.#receiver?.close()
    this.#receiver = null
    this.notifyEndpoint.socket.close()
    rmSync(this.notifyEndpoint.folder, { recursive: true, force: true })
  }
}

function pathIn(folder: string): string {
  return join(folder, 'notify')
}

function openNotifyEndpoint(): NotifyEndpoint {
  const folder = temporaryFolder()
  try {
    // A version started by root may change its user before it reports: allow all users to send, and filter by credentials.
    const shared = process.geteuid?.() === 0
    chmodSync(folder, shared ? 0o711 : 0o700)
    const wanted = {
      kind: 'unix',
      host: pathIn(folder),
      datagram: true,
      mode: shared ? 0o666 : 0o600,
    } as const
    const socket = bindSocket(wanted, 'notify socket')
    setSocketOption(socket, 'passCred', true)
    return { folder, socket }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

function mayReport({ pid, uid }: PeerCredentials, roots: ReadonlySet<number>): boolean {
  const own = process.geteuid?.() ?? uid
  if (uid === own || uid === 0) return true
  for (const each of ancestryOf(pid)) if (roots.has(each)) return true
  return false
}

function report({ words }: NotifyMessage, events: ProbeEvents): void {
  const main = Number(words.get('MAINPID'))
  if (Number.isInteger(main) && main > 0) events.mainProcess(main)
  const status = words.get('STATUS')
  if (status !== undefined) events.statusText(status)
  if (words.get('READY') === '1') events.ready()
}

/** Timing of health checks. Milliseconds. */
export interface CheckTiming {
  /** Interval between checks; null: short until the version is ready, longer after that. */
  readonly interval: number | null
  /** A check that takes longer fails. */
  readonly timeout: number
  /** Passed checks in a row that make the version ready. */
  readonly passes: number
}

export type ReadinessSpec =
  /** The version sends READY=1 to its NOTIFY_SOCKET. */
  | { readonly kind: 'notify' }
  /** The version writes a line to the descriptor that FD_BROKER_READY_FD names. */
  | { readonly kind: 'fd' }
  | CheckSpec
  /** The version has run for `ms` milliseconds. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** The version speaks fd-broker, and its status says that it serves. */
  | { readonly kind: 'handoff'; readonly control: string }

export const READINESS =
  'notify, fd, http:URL, http:/PATH, tcp:HOST:PORT, command:TEXT, delay:DURATION or handoff:CONTROL'

/** Throws ERR_FDB_OPTION. */
export function parseReadiness(text: string): ReadinessSpec {
  const colon = text.indexOf(':')
  const kind = colon < 0 ? text : text.slice(0, colon)
  const rest = colon < 0 ? '' : text.slice(colon + 1)
  const read = READERS[kind]?.(rest)
  if (read) return read
  throw new FdbError('ERR_FDB_OPTION', `ready is "${text}"; give ${READINESS}`, {
    details: { option: 'ready' },
  })
}

const READERS: Readonly<Record<string, (rest: string) => ReadinessSpec | null>> = {
  notify: rest => (rest === '' ? { kind: 'notify' } : null),
  fd: rest => (rest === '' ? { kind: 'fd' } : null),
  ...CHECK_PARSERS,
  delay: rest => {
    const ms = durationMs(rest)
    return ms === null ? null : { kind: 'delay', ms }
  },
  handoff: control => (control === '' ? null : { kind: 'handoff', control }),
}

export interface ProbedSettings {
  readonly ready: ReadinessSpec
  readonly asking: CheckTiming
  readonly listen: readonly unknown[]
  readonly nonBlocking: boolean
  readonly cwd?: string | undefined
  readonly env: Readonly<NodeJS.ProcessEnv>
}

const FIRST_FD = 3

/** Creates the probe of a version; loads only the module it needs, to keep the supervisor small. */
export async function probeFor(settings: ProbedSettings, children: ChildStarter): Promise<Probe> {
  const { asking, ready, listen, nonBlocking, cwd, env } = settings
  const nextFd = FIRST_FD + listen.length
  switch (ready.kind) {
    case 'notify':
      return new NotifyProbe()
    case 'fd':
      return new ReadyFdProbe(nextFd)
    case 'delay':
      return new DelayProbe(ready.ms)
  }
  switch (ready.kind) {
    case 'http': {
      const { httpCheck } = await import('../probing/http-check.js')
      return ready.url.startsWith('/')
        ? new PrivateListenerProbe(ready.url, { asking, nonBlocking }, nextFd, httpCheck)
        : new PollingProbe(() => httpCheck(ready.url), asking)
    }
    case 'tcp': {
      const { tcpCheck } = await import('../probing/health-check.js')
      return new PollingProbe(() => tcpCheck(ready.host, ready.port), asking)
    }
    case 'command': {
      const { commandCheck } = await import('../probing/shell.js')
      const shell = (pid: number) =>
        childShell(children, cwd ?? process.cwd(), { ...process.env, ...env, FD_BROKER_PID: `${pid}` })
      return new PollingProbe(pid => commandCheck(ready.text, shell(pid)), asking)
    }
    case 'handoff': {
      const { descendantServes } = await import('./descendant-serves.js')
      // Not asked while it serves: it may hand over by itself, and another process answers then.
      return new PollingProbe(pid => descendantServes(ready.control, pid), asking, false)
    }
  }
}

/** A version that an earlier image of this process started. */
export interface InheritedProbe {
  readonly settings: ProbedSettings
  /** The version's notify socket, owned by the probe; null if it has none. */
  readonly hearing: NotifyEndpoint | null
  /** URL at which only this version answers; absent if there is none. */
  readonly place?: string | undefined
}

export async function probeOfInherited(
  { hearing, settings, place }: InheritedProbe,
  serves: boolean,
  children: ChildStarter,
): Promise<Probe> {
  if (hearing !== null) return new NotifyProbe(hearing)
  const { asking, ready } = settings
  const isPrivate = ready.kind === 'http' && ready.url.startsWith('/')
  const canBeAsked = ready.kind === 'tcp' || ready.kind === 'command' || (ready.kind === 'http' && !isPrivate)
  if (!serves || (!canBeAsked && place === undefined)) return NO_PROBE
  const probe = place === undefined ? await probeFor(settings, children) : await probeAt(place, asking)
  probe.markServing()
  return probe
}

async function probeAt(url: string, asking: CheckTiming): Promise<Probe> {
  const { httpCheck: httpQuestion } = await import('../probing/http-check.js')
  return new PollingProbe(() => httpQuestion(url), asking)
}
