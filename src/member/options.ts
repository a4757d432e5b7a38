import { resolve } from 'node:path'
import {
  abortSignal,
  type Checks,
  checkMs,
  checkOptions,
  hook,
  milliseconds,
  nameUpTo,
  oneOf,
  path,
  predicate,
  unchecked,
  wrongOption,
} from '../base/check-option.js'
import { type Logger, wrappedLogger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Caller } from '../holder/admission.js'
import { type HandoffTimes, resolveTimes, withoutUndefined } from '../holder/times.js'
import type { OwnedFd } from '../kernel/index.js'
import { DAEMON, defaultControl, slotOf, type WorkerPlace, workerPlace } from '../os/default-control.js'
import { mainProcess } from '../os/main-process.js'
import { canNameMainProcess } from '../os/service-manager/service-manager.js'
import { type StateFileOptions, type StateFileSettings, stateFileSettings } from '../state/file/files.js'
import { limitsFrom, type StateLimits } from '../state/limits.js'
import { VERSIONS, type VersionRange } from '../wire/link.js'
import type { Health } from './heartbeat.js'
import { RETIRED_MS } from './shutdown.js'

export interface JoinOptions {
  /**
   * Names what is served. A control socket of another service refuses. In a worker (`startWorkers`, `fd-broker workers`) that joins the
   * service of its main process, place and hosting are the worker's own, whatever is said here; state file, pid file and service
   * manager are the first worker's, or the main process's.
   */
  service: string
  /**
   * Path of the control socket, at most 106 bytes; its folder is made (0700) when missing. Default: `SERVICE.sock` (`daemon.sock` in daemon hosting) in
   * `$RUNTIME_DIRECTORY`, `/run/fd-broker`, `$XDG_RUNTIME_DIR/fd-broker` or `/run/SERVICE`: where it is already, else the first that is this user's.
   * `false`: no holder at all: no upgrade, the same code otherwise (tests, `tsx watch`).
   */
  control?: string | false
  /**
   * `embedded` (default): the first process on the path holds sockets and state itself. `daemon`: only ever join a running
   * `fd-broker serve`, and wait for it when it is not there.
   */
  hosting?: 'embedded' | 'daemon'
  /**
   * The state is that of this other service of the same daemon (`hosting: 'daemon'`): its sections can be read and changed as by its own
   * member, which alone keeps a state file. Work to be done once for the state is for the member that does not follow: see
   * {@link Member.follows}.
   */
  follow?: string
  /** Aborts the wait for a place. A member that has joined is closed by {@link Member.close}. */
  signal?: AbortSignal
  /** pino-compatible. Without one the library is silent. */
  logger?: Logger
  /** For the start-up race and for the incumbent's answer, milliseconds. Default 10 000. */
  timeout?: number
  /**
   * Limits of a handoff in which this process is the incumbent, in daemon hosting too (what is not given is the daemon's
   * then). `silence` must be more than twice `heartbeat`.
   */
  upgrade?: Partial<HandoffTimes>
  drain?: {
    /** Connections that have not ended after so many milliseconds are closed. Default 30 000. */
    timeout?: number
    /**
     * The same for connections over TLS, which cannot move; not less than `timeout`. They are told to go by their next answer, and
     * their process stays until they have gone. Not where the service ends. Default 3 600 000 (an hour).
     */
    tlsTimeout?: number
    /**
     * Connections that can go on in the process that serves: `auto` (default) moves each as soon as it can leave, `idle`
     * only between two requests, `off` none: all drain.
     */
    move?: 'auto' | 'idle' | 'off'
    /** Connections that move in a second, at most. Default: no bound but time: 3 ms in one turn of the event loop. */
    movesPerSecond?: number
    /**
     * A few connections of each kind (1 %, at least 8) move first. The rest follows when the next version has been healthy with
     * them for so many milliseconds, and has answered over them if anything was asked: one that crashes before takes no more
     * than those with it. It comes evenly, within three times that, 750 ms at most, unless there are more than can go in it. Default
     * 250; 0: all at once.
     */
    firstWave?: number
  }
  /**
   * Keeps the state in a file too, so that the first process after a reboot starts with it: {@link Member.first} is true then, and the
   * sections are filled. The process that serves writes it; give all versions the same path.
   */
  stateFile?: string | StateFileOptions
  /** Bounds of the state, each with a default. */
  stateLimits?: Partial<StateLimits>
  /**
   * The fate of this process when another serves, and its own end would end that one too: it is PID 1 of a container, the main process of a
   * systemd unit, or says so itself (the variable FD_BROKER_MAIN_PROCESS=1).
   * - `refuse` (default): {@link Member.upgrade} rejects with ERR_FDB_MAIN_PROCESS, and this process serves on.
   * - `stays`: the application awaits {@link Member.stay} before it ends.
   * - `ends`: the detection is wrong here (`KillMode=process`, `ExitType=cgroup`): it may end.
   */
  mainProcess?: 'refuse' | 'stays' | 'ends'
  /**
   * `auto`: where a service manager wants to hear of this service (`NOTIFY_SOCKET`, as systemd sets it with `Type=notify` or
   * `NotifyAccess=`), it is told when it serves, is upgraded, stands by again, ends; who the main process is, at the Commit, so that
   * the unit's main process may be replaced; and, as long as {@link health} is true, that it lives (`WatchdogSec=`). A unit
   * needs `NotifyAccess=all`. Default `off`.
   */
  systemd?: 'auto' | 'off'
  /** A file that names the process that serves: replaced at the commit, and at a rollback; removed when the service ends. */
  pidFile?: string
  /**
   * Told in heartbeats: false, or a sentence that says why not, brings the old version back in probation, when it is said for
   * longer than `upgrade.silence`. Default: always healthy.
   */
  health?: Health
  /**
   * Ends this process (`process.exit()`) when it still lives so many milliseconds after {@link Member.retired} has resolved: a timer or a
   * watcher that nothing closes keeps it otherwise. True: 2 000. A process that {@link Member.stay}s for others is left alone. Default false: the log and
   * `status` name what keeps it.
   */
  exitWhenRetired?: boolean | number
  /** @internal Versions of the protocol to speak; for tests. */
  versions?: VersionRange
}

export interface Settings {
  readonly service: string
  readonly control: string | null
  readonly hosting: 'embedded' | 'daemon'
  /** The service whose state this member has; null: its own. */
  readonly follow: string | null
  readonly signal: AbortSignal | undefined
  readonly logger: Logger
  readonly timeout: number
  readonly times: HandoffTimes
  /** The limits that the application gave: a daemon has defaults of its own. */
  readonly wantedTimes: Partial<HandoffTimes>
  readonly drainTimeout: number
  readonly drainTlsTimeout: number
  readonly move: 'auto' | 'idle' | 'off'
  readonly movesPerSecond: number
  readonly firstWave: number
  readonly stateFile: StateFileSettings | null
  readonly stateLimits: Readonly<StateLimits>
  readonly health: Health
  readonly mainProcess: 'refuse' | 'stays' | 'ends'
  readonly systemd: 'auto' | 'off'
  readonly pidFile: string | null
  /** Milliseconds; null: it is not ended. */
  readonly exitWhenRetired: number | null
  readonly versions: VersionRange
  /** Null: it is no worker of a main process. */
  readonly worker: WorkerPlace | null
  /** Null: it has no members of its own. */
  readonly reception: Reception | null
}

const HOUR_MS = 3_600_000

const DRAIN: Checks<NonNullable<JoinOptions['drain']>> = {
  timeout: milliseconds(0),
  tlsTimeout: milliseconds(0),
  move: oneOf('auto', 'idle', 'off'),
  movesPerSecond: predicate('a number of at least 1', value => typeof value === 'number' && value >= 1),
  firstWave: milliseconds(0),
}

const JOIN: Checks<JoinOptions> = {
  service: nameUpTo(128),
  control: predicate(
    'a path, or false',
    value => value === false || (typeof value === 'string' && value !== ''),
  ),
  hosting: oneOf('embedded', 'daemon'),
  follow: unchecked,
  signal: abortSignal,
  logger: unchecked,
  timeout: milliseconds(1),
  upgrade: unchecked,
  drain: value => checkOptions('drain', value as NonNullable<JoinOptions['drain']>, DRAIN, 'drain.'),
  stateFile: unchecked,
  stateLimits: unchecked,
  health: hook('a function that answers true, false or why not'),
  mainProcess: oneOf('refuse', 'stays', 'ends'),
  systemd: oneOf('auto', 'off'),
  pidFile: path(),
  exitWhenRetired: (value, name) => {
    if (typeof value !== 'boolean') checkMs(name, value, 0)
  },
  versions: unchecked,
}

export function settle(given: JoinOptions): Settings {
  checkOptions('join()', given, JOIN)
  // It is not optional.
  JOIN.service(given.service, 'service')
  const worker = workerFor(given)
  const options = worker === null ? given : inPlaceOf(worker, given)
  const { service, control, drain = {}, follow, hosting = 'embedded', pidFile } = options
  if (control === false && hosting === 'daemon')
    throw wrongOption('control', control, 'the path of the daemon’s control socket')
  if (follow !== undefined) checkFollow(follow, service, options)
  return {
    service,
    control: control === false ? null : resolve(control ?? defaultPlace(service, hosting)),
    hosting,
    follow: follow ?? null,
    signal: options.signal,
    logger: wrappedLogger(options.logger),
    timeout: options.timeout ?? 10_000,
    times: resolveTimes(options.upgrade),
    wantedTimes: withoutUndefined(options.upgrade ?? {}),
    drainTimeout: drain.timeout ?? 30_000,
    drainTlsTimeout: drain.tlsTimeout ?? HOUR_MS,
    move: drain.move ?? 'auto',
    movesPerSecond: drain.movesPerSecond ?? Number.POSITIVE_INFINITY,
    firstWave: drain.firstWave ?? 250,
    stateFile: options.stateFile === undefined ? null : stateFileSettings(options.stateFile, service),
    stateLimits: limitsFrom(options.stateLimits),
    health: options.health ?? (() => true),
    mainProcess: options.mainProcess ?? 'refuse',
    systemd: options.systemd ?? 'off',
    pidFile: pidFile === undefined ? null : resolve(pidFile),
    exitWhenRetired: exitAfter(options.exitWhenRetired ?? false),
    versions: options.versions ?? VERSIONS,
    worker,
    reception: null,
  }
}

function exitAfter(given: boolean | number): number | null {
  return typeof given === 'number' ? given : given ? RETIRED_MS : null
}

function isName(name: unknown): boolean {
  return typeof name === 'string' && name !== '' && name.length <= 128
}

function checkFollow(follow: unknown, service: string, { hosting, stateFile }: JoinOptions): void {
  if (!isName(follow) || follow === service)
    throw wrongOption('follow', follow, 'the name of another service, of 1 to 128 characters')
  if (hosting !== 'daemon')
    throw wrongOption('hosting', hosting, '"daemon": with `follow` a daemon holds both services')
  if (stateFile !== undefined)
    throw wrongOption(
      'stateFile',
      stateFile,
      `nothing with \`follow\`: the member of "${follow}" keeps the state`,
    )
}

/** Null: it joins something else. */
function workerFor({ service, control }: JoinOptions): WorkerPlace | null {
  const place = control === false ? null : workerPlace()
  return place?.service === service ? place : null
}

/** Options that all workers share are not this one's. */
function inPlaceOf({ index, service, control }: WorkerPlace, given: JoinOptions): JoinOptions {
  const { pidFile: _, systemd: __, stateFile, ...options } = given
  return {
    ...options,
    service: slotOf(service, index),
    control,
    hosting: 'daemon',
    // The state is the first one's, and the others have it too.
    ...(index > 0 && { follow: service }),
    ...(index === 0 && stateFile !== undefined && { stateFile }),
  }
}

/** A daemon may hold several services: it has a name of its own. */
function defaultPlace(service: string, hosting: Settings['hosting']): string {
  return defaultControl(hosting === 'daemon' ? DAEMON : service, process.env)
}

/**
 * The control socket of a process that has members of its own (a daemon): others than its successors connect to it. The descriptors that it
 * holds for them are in its registry, so that they cross its upgrade as a server's listeners do.
 */
export interface Reception {
  /** The socket that a service manager has bound at the control path, and whose path it is; null: none. Owned by the starting process. */
  readonly passed: OwnedFd | null
  /** Whether to take over from the one that is there, or to be refused: ERR_FDB_CONTROL_TAKEN. */
  readonly takesOver: boolean
  /** Takes a caller. `own`: receives one as every service does; it may be called later. */
  receive(caller: Caller, own: (caller: Caller) => void): void
  /** Whether another user than this process's, or root, may say Hello. */
  mayConnect(uid: number): boolean
  /** Counts a connection until it has closed; why it is one too many, or null. */
  connected(uid: number, closed: Promise<void>): FdbError | null
  /** Permission bits of the control socket. */
  readonly controlMode: number
  /** Describes the process for outside. */
  describe(): string
}

/** Why the end of this process would end its successor too; null: it would not, as the service manager is told of that one. */
export function whyMain({ systemd }: Settings): string | null {
  return mainProcess(systemd === 'auto' && canNameMainProcess())
}

/** Throws ERR_FDB_MAIN_PROCESS if the end of this process would end the named one, and the option `mainProcess` was not given. */
export function refuseMainProcess({ settings }: { readonly settings: Settings }, whom: string): void {
  const why = settings.mainProcess === 'refuse' ? whyMain(settings) : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_MAIN_PROCESS',
    `the end of process ${process.pid} would end ${whom} too, as ${why}: give join() mainProcess 'stays' and await member.stay(), or 'ends' if that is not so (KillMode=process, ExitType=cgroup); in a unit with NotifyAccess=all systemd 'auto' is enough`,
  )
}
