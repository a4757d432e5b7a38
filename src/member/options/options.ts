import { resolve } from 'node:path'
import { isAsyncFunction } from 'node:util/types'
import { DEFAULT_TIMES } from '../../base/default-times.js'
import { type Logger, SILENT, wrappedLogger } from '../../base/logger.js'
import { isFolder } from '../../checks/files.js'
import { hooksShape } from '../../checks/hooks.js'
import {
  abortSignal,
  checkOptions,
  type Given,
  logger,
  nameUpTo,
  path,
  withoutUndefined,
} from '../../checks/options.js'
import { wrongOption } from '../../checks/place.js'
import { absent, map, optional, required, type ShapeOf } from '../../checks/shape.js'
import {
  type Checked,
  integer,
  milliseconds,
  oneOf,
  or,
  predicate,
  refine,
  unchecked,
  type ValueCheck,
} from '../../checks/values.js'
import { FdbError } from '../../errors.js'
import type { Caller } from '../../holder/admission.js'
import { type HandoffTimes, handoffTimes } from '../../holder/times.js'
import type { OwnedFd } from '../../kernel/index.js'
import { DAEMON, defaultControl, slotOf, type WorkerPlace, workerPlace } from '../../os/default-control.js'
import { mainProcess } from '../../os/main-process.js'
import { canNameMainProcess } from '../../os/service-manager/service-manager.js'
import { type StateFileOptions, stateFileSettings } from '../../state/file/files.js'
import { limitsFrom, type StateLimits } from '../../state/limits.js'
import type { ForeignUser } from '../../wire/foreign-user.js'
import { VERSIONS, type VersionRange } from '../../wire/link.js'

/** Returns true if the application is healthy, else false or a sentence with the reason. */
export type Health = () => boolean | string

export interface JoinOptions {
  /**
   * The name of the service. The control socket of another service refuses this process. A worker (`startWorkers`, `fd-broker workers`)
   * that joins the service of its main process ignores `control` and `hosting`; only the first worker uses `stateFile`, and only the main
   * process uses `pidFile` and `systemd`.
   */
  service: string
  /**
   * The path of the control socket, at most 106 bytes. A missing folder is created with mode 0700. Default: `SERVICE.sock` (`daemon.sock`
   * in daemon hosting) in `$RUNTIME_DIRECTORY`, `/run/fd-broker`, `$XDG_RUNTIME_DIR/fd-broker` or `/run/SERVICE`: the folder that already
   * has it, else the first that belongs to this user. `false`: no control socket, so that this process cannot be upgraded, for tests and `tsx
   * watch`; the rest of the program need not change.
   */
  control?: string | false | undefined
  /**
   * `embedded` (default): the first process on the path holds sockets and state itself. `daemon`: the process joins a running `fd-broker
   * serve`, and waits for it if there is none.
   */
  hosting?: 'embedded' | 'daemon' | undefined
  /**
   * Uses the state of this other service of the same daemon (`hosting: 'daemon'`). This member reads and changes the sections like that
   * service's own member, but only that service may have a state file. See {@link Member.follows} for work that is done once for a state.
   */
  follow?: string | undefined
  /** Aborts joining. After joining, use {@link Member.close}. */
  signal?: AbortSignal | undefined
  /** A pino-compatible logger. Without one the library is silent. */
  logger?: Logger | undefined
  /** The limit for the start-up and for the incumbent's answers, in milliseconds. Default 10 000. */
  timeout?: number | undefined
  /**
   * The limits of a handoff in which this process is the incumbent. In daemon hosting the daemon's limits replace the ones that are not
   * given. `silence` must be more than twice `heartbeat`.
   */
  upgrade?: Given<HandoffTimes> | undefined
  drain?:
    | {
        /** The time after which remaining connections are closed, in milliseconds. Default 30 000. */
        timeout?: number | undefined
        /**
         * The same for TLS connections; at least `timeout`. The next response of each announces the end, and this process lives
         * until they have ended. If the service ends, `timeout` applies instead. Default 3 600 000 (an hour).
         */
        tlsTimeout?: number | undefined
        /**
         * The most older versions that drain at the same time. One more, and the oldest closes its connections within `timeout`, but at most 10 s. Default 16.
         */
        generations?: number | undefined
        /**
         * Which connections move to the process that serves. `auto` (default): each as soon as it can move; some kinds can even amid a
         * request. `idle`: each between two requests only. `off`: none; all drain.
         */
        move?: 'auto' | 'idle' | 'off' | undefined
        /** The most connections that move in a second. Default: no limit, except 3 ms of each turn of the event loop. */
        movesPerSecond?: number | undefined
        /**
         * A few connections of each server (1 %, at least 8) move first, so that a version that crashes takes few connections with it. The
         * others follow when the next version has served these for `firstWave` milliseconds and, if their clients have sent requests, has
         * answered one. The others move evenly within three times `firstWave`, at most 400 ms. Default 250; 0: all at once.
         */
        firstWave?: number | undefined
      }
    | undefined
  /**
   * Also keeps the state in a file, so that the first process after a reboot starts with it: then {@link Member.first} is true and the
   * sections are filled. The process that serves writes the file; give all versions the same path.
   */
  stateFile?: string | StateFileOptions | undefined
  /** Limits of the state, each with a default. */
  stateLimits?: Given<StateLimits> | undefined
  /**
   * Decides about an upgrade if the end of this process would end its successor too, because this process is PID 1 of a container, or the
   * main process of a systemd unit, or has the variable FD_BROKER_MAIN_PROCESS=1.
   * - `refuse` (default): {@link Member.upgrade} rejects with ERR_FDB_MAIN_PROCESS, and this process continues to serve.
   * - `stays`: the application awaits {@link Member.stay} before it ends.
   * - `ends`: this process may end. Give it if the successor survives that (`KillMode=process`, `ExitType=cgroup`).
   */
  mainProcess?: 'refuse' | 'stays' | 'ends' | undefined
  /**
   * `auto`: notifies a service manager (`NOTIFY_SOCKET`, which systemd sets with `Type=notify` or `NotifyAccess=`) when this service
   * serves, is upgraded, is rolled back, or ends, and names the new main process at each Commit. Also sends the watchdog's keep-alive
   * (`WatchdogSec=`) while {@link health} is true. A unit needs `NotifyAccess=all`. Default `off`.
   */
  systemd?: 'auto' | 'off' | undefined
  /** The path of a file with the pid of the process that serves. Replaced at a commit or rollback, removed when the service ends. */
  pidFile?: string | undefined
  /**
   * Returns true, false, or a sentence that says why this process is not healthy. Heartbeats carry the result. In probation the previous
   * version takes over again if this process is not healthy for longer than `upgrade.silence`. Default: always healthy.
   */
  health?: Health | undefined
  /**
   * Ends this process (`process.exit()`) if a timer or watcher still keeps it alive this many milliseconds after {@link Member.retired} has
   * resolved; `true` means 2 000. Ignored while the process {@link Member.stay}s for others. Default false: the process lives on, and the
   * log and `status` name the resources that keep it alive.
   */
  exitWhenRetired?: boolean | number | undefined
  /**
   * Commands for `sh`, or URLs that get a POST, for the outcomes of upgrades. The process that decides runs them: the one that this process serves
   * as, or was. Not with `hosting: 'daemon'`, nor in a worker: the daemon's configuration and `startWorkers()` have `hooks` too.
   */
  hooks?:
    | {
        /** The next version serves, and its probation is over. */
        success?: string | undefined
        /** An upgrade has failed before the Commit: this process serves on. */
        failure?: string | undefined
        /** This process serves again. */
        rollback?: string | undefined
        /** The limit of a hook in milliseconds: then its process group is killed. Default 10 000. */
        timeout?: number | undefined
      }
    | undefined
  /** @internal The versions of the protocol, for tests. */
  versions?: VersionRange | undefined
}

/** The options of {@link join}, with their defaults. */
export type Settings = Readonly<ReturnType<typeof resolveOptions>>

const DRAIN = map({
  timeout: optional(milliseconds(0), DEFAULT_TIMES.drain.ms),
  tlsTimeout: optional(milliseconds(0), DEFAULT_TIMES.drainTls.ms),
  generations: optional(integer(1, 255), 16),
  move: optional(oneOf('auto', 'idle', 'off'), 'auto'),
  movesPerSecond: optional(
    predicate<number>('a number of at least 1', value => typeof value === 'number' && value >= 1),
    Number.POSITIVE_INFINITY,
  ),
  firstWave: optional(milliseconds(0), DEFAULT_TIMES.firstWave.ms),
} satisfies ShapeOf<NonNullable<JoinOptions['drain']>>)

/** Milliseconds; null: the process is not ended. */
const exitAfter: ValueCheck<number | null> = (value, place) =>
  typeof value === 'boolean' ? (value ? DEFAULT_TIMES.retired.ms : null) : milliseconds(0)(value, place)

/** A process that serves cannot replace a folder by its pid file: that would fail at each try. */
const pidFile = refine(path(), (given, place) =>
  isFolder(given) ? place.refuse(given, 'the path of a file, not of a folder', 'is a folder') : given,
)

const JOIN = map({
  service: required(nameUpTo(128)),
  control: absent(or(path('a path, or false'), false)),
  hosting: optional(oneOf('embedded', 'daemon'), 'embedded'),
  follow: absent(unchecked<string>()),
  signal: absent(abortSignal),
  logger: optional(logger, SILENT),
  timeout: optional(milliseconds(1), DEFAULT_TIMES.joining.ms),
  upgrade: optional(handoffTimes, {}),
  drain: optional(DRAIN, {}),
  stateFile: absent(unchecked<string | StateFileOptions>()),
  stateLimits: absent(unchecked<Given<StateLimits>>()),
  health: optional(
    predicate<Health>(
      'a function that is not async, and answers true, false or why not',
      value => typeof value === 'function' && !isAsyncFunction(value),
    ),
    () => true,
  ),
  mainProcess: optional(oneOf('refuse', 'stays', 'ends'), 'refuse'),
  systemd: optional(oneOf('auto', 'off'), 'off'),
  pidFile: absent(pidFile),
  exitWhenRetired: optional(exitAfter, false),
  hooks: absent(map(hooksShape(milliseconds(1), DEFAULT_TIMES.hook.ms))),
  versions: optional(unchecked<VersionRange>(), VERSIONS),
} satisfies ShapeOf<JoinOptions>)

type CheckedJoin = Checked<typeof JOIN>

/** Throws ERR_FDB_OPTION. */
export function resolveOptions(options: JoinOptions) {
  const given = checkOptions('join()', options, JOIN)
  const worker = workerFor(given)
  const { service, control, drain, follow, hosting, pidFile, stateFile, ...others } =
    worker === null ? given : workerOptions(worker, given)
  if (control === false && hosting === 'daemon')
    throw wrongOption('control', control, 'the path of the daemon’s control socket')
  if (others.hooks !== undefined && hosting === 'daemon')
    throw wrongOption(
      'hooks',
      others.hooks,
      'nothing in a worker, or under a daemon: its configuration has hooks',
    )
  if (follow !== undefined) checkFollow(follow, service, worker === null ? options : { hosting, stateFile })
  return {
    service,
    control: control === false ? null : resolve(control ?? defaultControlPath(service, hosting)),
    hosting,
    /** The service whose state this member follows, or null if it has its own. */
    follow: follow ?? null,
    signal: others.signal,
    logger: wrappedLogger(others.logger),
    timeout: others.timeout,
    times: others.upgrade,
    /** The limits that the application gave. Sent to a daemon, which adds its own defaults. */
    wantedTimes: withoutUndefined(options.upgrade ?? {}),
    drainTimeout: drain.timeout,
    drainTlsTimeout: drain.tlsTimeout,
    drainGenerations: drain.generations,
    move: drain.move,
    movesPerSecond: drain.movesPerSecond,
    firstWave: drain.firstWave,
    stateFile: stateFile === undefined ? null : stateFileSettings(stateFile, service),
    stateLimits: limitsFrom(others.stateLimits),
    health: others.health,
    mainProcess: others.mainProcess,
    systemd: others.systemd,
    pidFile: pidFile === undefined ? null : resolve(pidFile),
    /** Milliseconds, or null if the process is not ended. */
    exitWhenRetired: others.exitWhenRetired,
    hooks: others.hooks ?? null,
    versions: others.versions,
    /** Null if this process is no worker of a main process. */
    worker,
    /** Null if this process is no daemon. */
    reception: null as Reception | null,
  }
}

function checkFollow(
  follow: unknown,
  service: string,
  { hosting, stateFile }: Omit<JoinOptions, 'service'>,
): void {
  if (typeof follow !== 'string' || follow === '' || follow.length > 128 || follow === service)
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

/** Returns null unless this process is a worker that joins the service of its main process. */
function workerFor({ service, control }: CheckedJoin): WorkerPlace | null {
  const place = control === false ? null : workerPlace()
  return place?.service === service ? place : null
}

/** Returns the options of a worker, without those that only one process of the group may use. */
function workerOptions({ index, service, control }: WorkerPlace, given: CheckedJoin): CheckedJoin {
  // The first worker has the state; the other workers follow that state.
  const { follow, stateFile } = index === 0 ? given : { follow: service, stateFile: undefined }
  return {
    ...given,
    service: slotOf(service, index),
    control,
    hosting: 'daemon',
    follow,
    stateFile,
    pidFile: undefined,
    systemd: 'off',
  }
}

/** A daemon may hold several services, so its default name is not the service's. */
function defaultControlPath(service: string, hosting: 'embedded' | 'daemon'): string {
  return defaultControl(hosting === 'daemon' ? DAEMON : service, process.env)
}

/** A daemon's rules for its control socket, to which the daemon's successors, the members of its services and operators connect. */
export interface Reception {
  /** The socket that a service manager has bound at the control path, or null. Owned by the code that starts the member. */
  readonly passed: OwnedFd | null
  /** Whether to take over from a running daemon; otherwise joining fails with ERR_FDB_CONTROL_TAKEN. */
  readonly takesOver: boolean
  /** Handles and owns a client. Passes the next daemon to the daemon's own control socket, possibly later. */
  receive(caller: Caller): void
  /** Whether `uid` may connect, which is neither this process's user nor root. */
  mayConnect(uid: number): boolean
  /** Counts a connection until `closed` resolves. Returns an error if a limit is exceeded. */
  connected(uid: number, closed: Promise<void>): FdbError | null
  /** Returns what counts and limits the messages of another user. */
  foreignUserOf(uid: number): ForeignUser | undefined
  /** The permission bits of the control socket. */
  readonly controlMode: number
  /** Describes the daemon for the service manager. */
  describe(): string
}

/** Returns the reason why the end of this process would end its successor too, or null if the successor would survive. */
export function mainProcessReason({ systemd }: Pick<Settings, 'systemd'>): string | null {
  return mainProcess(systemd === 'auto' && canNameMainProcess())
}

/** Throws ERR_FDB_MAIN_PROCESS if the end of this process would end `other`, unless the option `mainProcess` allows that. */
export function refuseMainProcess(
  { settings }: { readonly settings: Pick<Settings, 'mainProcess' | 'systemd'> },
  other: string,
): void {
  const why = settings.mainProcess === 'refuse' ? mainProcessReason(settings) : null
  if (why === null) return
  throw new FdbError(
    'ERR_FDB_MAIN_PROCESS',
    `the end of process ${process.pid} would end ${other} too, because ${why}: give join() mainProcess 'stays' and await member.stay(), or 'ends' if that is wrong (KillMode=process, ExitType=cgroup); in a unit with NotifyAccess=all systemd 'auto' is enough`,
  )
}
