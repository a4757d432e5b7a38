import { chmodSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterReading, type Limit } from '../base/after-reading.js'
import { durationMs } from '../base/duration.js'
import { FOLDER_MODES, SOCKET_MODES } from '../base/socket-modes.js'
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
import { startedAs } from '../os/command-line.js'
import { ancestryOf } from '../os/main-process.js'
import { type NotifyMessage, NotifyReceiver } from '../os/service-manager/notify-socket.js'
import { FIRST_FD } from '../os/service-manager/passed-sockets.js'
import {
  CHECK_PARSERS,
  type CheckSpec,
  type HealthCheck,
  HealthJudge,
  repeatCheck,
  tcpCheck,
} from '../probing/health-check.js'
import { type ChildStarter, childShell, commandCheck } from '../probing/shell.js'
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
  /** A ready version fails its health checks. */
  failed(why: string): void
  /** A version that had failed passes its health checks again. */
  recovered(): void
  statusText(text: string): void
  /** The version reports the pid of its new main process. */
  mainProcess(pid: number): void
}

/** The notify socket to which a version sends its reports. */
export interface NotifyEndpoint {
  /** A folder that contains only the socket, and is removed with it. */
  readonly folder: string
  readonly socket: OwnedFd
}

/** Finds out whether a version is ready, and whether it stays healthy. The base class reports nothing. */
export class Probe implements Disposable {
  /** Listeners that only this version gets, with the descriptor numbers after those of the shared listeners. */
  readonly listeners: readonly GivenListener[] = []
  /** Further descriptors for the version, with the numbers after those of all listeners. Borrowed. */
  readonly fds: readonly OwnedFd[] = []
  readonly env: NodeJS.ProcessEnv = {}
  /** The version's notify socket, borrowed. Absent if the version gets none. */
  readonly notifyEndpoint?: NotifyEndpoint
  /** URL at which only this version answers; the next image of the supervisor needs it too. */
  readonly url: string | undefined
  /** Whether health checks continue while the version serves. */
  readonly asksServing: boolean = false

  /** Why the last health check failed; null if it passed, or if none was made. */
  get complaint(): string | null {
    return null
  }

  /** Whether a health check waits for its answer. */
  get isOpen(): boolean {
    return false
  }

  start(_pid: number, _events: ProbeEvents): void {}

  /** Called when the version serves. `isSick`: it fails its health checks, as the previous image of the supervisor has heard. */
  markServing(_isSick = false): void {
    this.stop()
  }

  /** Called when the version has completed its probation. */
  markProven(): void {}

  /** Stops the health checks. Idempotent. */
  stop(): void {}

  [Symbol.dispose](): void {
    this.stop()
  }
}

export const NO_PROBE = new Probe()

/** The version is ready when it has run for some milliseconds. */
export class DelayProbe extends Probe {
  readonly #ms: number
  #limit: Limit | undefined

  constructor(ms: number) {
    super()
    this.#ms = ms
  }

  override start(_pid: number, events: ProbeEvents): void {
    // Behind the news that the version has ended, which may have come while this process was stopped.
    this.#limit = afterReading(this.#ms, () => events.ready())
  }

  override stop(): void {
    this.#limit?.clear()
  }
}

/** The version is ready when it has written a line to the descriptor that FD_BROKER_READY_FD names. */
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
      const { bytes: got, fds } = receiveMessage(this.#own, bytes)
      closeAll(fds ?? [])
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

/** Intervals of health checks: before the version is ready, until it has completed its probation, and after that. */
const STARTING_MS = 100
const UNPROVEN_MS = 250
const PROVEN_MS = 5_000
/** Consecutive failed checks that make a proven version a failing one: it may only be busy. */
const PROVEN_FAILURES = 3

const PRIVATE_SPEC = parseListenerSpec('tcp://127.0.0.1:0')
/** Name in LISTEN_FDNAMES of the listener that only one version gets. */
const PRIVATE_NAME = 'ready'
/** Matches the text of a failed check that got a response. */
const HTTP_STATUS = /^GET \S+: \d{3}\b/

/** The version is ready when enough consecutive health checks have passed. Continues the checks, and reports when their result changes. */
export class PollingProbe extends Probe {
  override readonly url: string | undefined
  override readonly asksServing: boolean
  readonly #questionTo: (pid: number) => HealthCheck
  readonly #timing: CheckTiming
  readonly #stopped = new AbortController()
  readonly #judge: HealthJudge
  #isOpen = false
  #serves = false
  #isProved = false

  /** `questionTo` returns the health check of the version with this pid. */
  constructor(
    questionTo: (pid: number) => HealthCheck,
    asking: CheckTiming,
    { asksServing = true, url }: { readonly asksServing?: boolean; readonly url?: string } = {},
  ) {
    super()
    this.url = url
    this.#questionTo = questionTo
    this.#timing = asking
    this.#judge = new HealthJudge(asking.passes)
    this.asksServing = asksServing
  }

  override get complaint(): string | null {
    return this.#judge.last
  }

  override get isOpen(): boolean {
    return this.#isOpen
  }

  override start(pid: number, events: ProbeEvents): void {
    const { interval, timeout } = this.#timing
    const usual = () => (this.#isProved ? PROVEN_MS : this.#judge.isReady ? UNPROVEN_MS : STARTING_MS)
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
      switch (this.#judge.hear(why, this.#isProved ? PROVEN_FAILURES : 1)) {
        case 'ready':
          events.ready()
          break
        case 'unwell':
          // Before the version serves, one failed check is final.
          if (!this.#serves) this.stop()
          events.failed(why!)
          break
        case 'well again':
          events.recovered()
      }
    })
  }

  override markServing(isSick = false): void {
    if (!this.asksServing) {
      this.stop()
      return
    }
    this.#judge.markReady(isSick)
    this.#serves = true
  }

  override markProven(): void {
    this.#isProved = true
  }

  override stop(): void {
    this.#stopped.abort()
    // The result of a check that waits for its answer is ignored.
    this.#isOpen = false
  }
}

/** Sends the health checks to a listener that only this version has, so that the serving version cannot answer them. */
class PrivateListenerProbe extends PollingProbe {
  override readonly listeners: readonly GivenListener[]
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
    const url = `${address.replace('tcp:', 'http:')}${path}`
    super(() => questionAt(url), asking, { url })
    this.listeners = [{ name: PRIVATE_NAME, fd, spec: PRIVATE_SPEC, address }]
    this.#fd = fd
    this.#inode = identity.ino
    this.#descriptor = descriptor
  }

  override get complaint(): string | null {
    const complaint = super.complaint
    // If the version has answered, it accepts: a connection in the queue is only the next check.
    return complaint !== null && HTTP_STATUS.test(complaint) ? complaint : (this.#notAccepted() ?? complaint)
  }

  /** Returns a complaint if the version does not accept on the private listener, as a program does that uses only its first descriptor. */
  #notAccepted(): string | null {
    if (this.#fd.closed || acceptQueueLength(this.#inode) === 0) return null
    return `it does not accept on descriptor ${this.#descriptor} (LISTEN_FDNAMES: ${PRIVATE_NAME}), on which it gets its health checks. A program that takes descriptor ${FIRST_FD} only needs another --ready: http://ADDRESS/PATH with an address of its own, fd, notify or delay`
  }

  override markServing(): void {
    super.markServing()
    // The version has its own descriptor: when its process ends, the kernel refuses the health checks.
    this.#fd.close()
  }

  override stop(): void {
    super.stop()
    this.#fd.close()
  }
}

/**
 * The version is ready when it has sent READY=1 by sd_notify(3). STATUS= and MAINPID= are optional. Each version has its own socket.
 * Accepts messages only from this user, from root and from processes of the version, which may have changed its user; the kernel attaches
 * the sender's credentials.
 */
export class NotifyProbe extends Probe {
  override readonly env: NodeJS.ProcessEnv
  override readonly notifyEndpoint: NotifyEndpoint
  #receiver: NotifyReceiver | null = null

  /** Owns the endpoint. A resumed version has the endpoint that the previous image of the supervisor opened. */
  constructor(notifyEndpoint: NotifyEndpoint = openNotifyEndpoint()) {
    super()
    this.notifyEndpoint = notifyEndpoint
    this.env = { NOTIFY_SOCKET: pathIn(notifyEndpoint.folder) }
  }

  override start(pid: number, events: ProbeEvents): void {
    const { socket } = this.notifyEndpoint
    /** The version's main process, and its former ones. */
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

  /** Closes the socket. `stop()` does not: the version may send MAINPID and STATUS while it serves. */
  override [Symbol.dispose](): void {
    this.#receiver?.close()
    this.#receiver = null
    this.notifyEndpoint.socket.close()
    try {
      rmSync(this.notifyEndpoint.folder, { recursive: true, force: true })
    } catch {
      // The file system is read-only by now.
    }
  }
}

function pathIn(folder: string): string {
  return join(folder, 'notify')
}

function openNotifyEndpoint(): NotifyEndpoint {
  const folder = temporaryFolder()
  try {
    const shared = process.geteuid?.() === 0
    chmodSync(folder, shared ? FOLDER_MODES.sharedNotify : FOLDER_MODES.private)
    const wanted = {
      kind: 'unix',
      host: pathIn(folder),
      datagram: true,
      mode: shared ? SOCKET_MODES.sharedNotify : SOCKET_MODES.notify,
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

/** Timing of health checks, in milliseconds. */
export interface CheckTiming {
  /** Time between two checks. If null, 100 ms until the version is ready, then 250 ms, and 5 s after its probation. */
  readonly interval: number | null
  /** A check that takes longer fails. */
  readonly timeout: number
  /** Number of consecutive passed checks after which the version is ready. */
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
  /** The version is a member of fd-broker, and serves according to the status at its control socket. */
  | { readonly kind: 'handoff'; readonly control: string }

export const READINESS =
  'notify, fd, http:URL, http:/PATH, tcp:HOST:PORT, command:TEXT, delay:DURATION or handoff:CONTROL'

/** Returns null for a text that is none of {@link READINESS}. */
export function parseReadiness(text: string): ReadinessSpec | null {
  const colon = text.indexOf(':')
  const kind = colon < 0 ? text : text.slice(0, colon)
  const rest = colon < 0 ? '' : text.slice(colon + 1)
  return READERS[kind]?.(rest) ?? null
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
  /** Whether the listeners get O_NONBLOCK. Sockets of systemd do not have it by default. */
  readonly nonBlocking: boolean
  /** Default: the folder in which the supervisor was started. Symbolic links in its path are followed again for each version. */
  readonly cwd?: string | undefined
  /** Overrides the supervisor's environment; undefined removes a variable. */
  readonly env: Readonly<NodeJS.ProcessEnv>
}

/** Returns a function that creates the probe of a version. Loads the larger modules only for a probe that needs them, to save memory. */
export async function probeFor(settings: ProbedSettings, children: ChildStarter): Promise<() => Probe> {
  const { asking, ready, listen, nonBlocking, cwd, env } = settings
  const nextFd = FIRST_FD + listen.length
  switch (ready.kind) {
    case 'notify':
      return () => new NotifyProbe()
    case 'fd':
      return () => new ReadyFdProbe(nextFd)
    case 'delay':
      return () => new DelayProbe(ready.ms)
    case 'http': {
      const { httpCheck } = await import('../probing/http-check.js')
      return () =>
        ready.url.startsWith('/')
          ? new PrivateListenerProbe(ready.url, { asking, nonBlocking }, nextFd, httpCheck)
          : new PollingProbe(() => httpCheck(ready.url), asking)
    }
    case 'tcp':
      return () => new PollingProbe(() => tcpCheck(ready.host, ready.port), asking)
    case 'command': {
      const shell = (pid: number) =>
        childShell(children, cwd ?? startedAs.cwd, { ...process.env, ...env, FD_BROKER_PID: `${pid}` })
      return () => new PollingProbe(pid => commandCheck(ready.text, shell(pid)), asking)
    }
    case 'handoff': {
      const { descendantServes } = await import('./descendant-serves.js')
      // Not checked while it serves: it may hand over by itself, and then another process answers.
      return () =>
        new PollingProbe(pid => descendantServes(ready.control, pid), asking, { asksServing: false })
    }
  }
}

/** Facts for the probe of a version that the previous image of this supervisor started. */
export interface InheritedProbe {
  readonly settings: ProbedSettings
  /** The version's notify socket, which the probe owns; null if the version has none. */
  readonly hearing: NotifyEndpoint | null
  /** URL at which only this version answers; absent if there is none. */
  readonly place?: string | undefined
}

/** `serves`: whether the version passes its health checks while it serves; null for one that does not serve. */
export async function probeOfInherited(
  { hearing, settings, place }: InheritedProbe,
  serves: 'well' | 'sick' | null,
  children: ChildStarter,
): Promise<Probe> {
  if (hearing !== null) return new NotifyProbe(hearing)
  const { asking, ready } = settings
  const canBeAsked =
    ready.kind === 'tcp' || ready.kind === 'command' || (ready.kind === 'http' && !ready.url.startsWith('/'))
  if (serves === null || (!canBeAsked && place === undefined)) return NO_PROBE
  const probe = place === undefined ? (await probeFor(settings, children))() : await probeAt(place, asking)
  probe.markServing(serves === 'sick')
  return probe
}

async function probeAt(url: string, asking: CheckTiming): Promise<Probe> {
  const { httpCheck } = await import('../probing/http-check.js')
  return new PollingProbe(() => httpCheck(url), asking, { url })
}
