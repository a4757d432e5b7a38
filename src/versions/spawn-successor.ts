import type { ChildProcess, StdioOptions } from 'node:child_process'
import { constants } from 'node:os'
import { startedWith } from '../base/successor-output.js'
import { FdbError } from '../errors.js'
import {
  OwnedFd,
  type ProgramStart,
  type StandardSource,
  startGuarded,
  startInSession,
  startsApart,
  trySignal,
} from '../kernel/index.js'
import { startRemedy } from '../os/command-line.js'
import { openPidfd, ownPidfd, watchDeath } from '../os/liveness.js'
import { ExitReason } from './exit-reason.js'
import { endProcesses, GRACE_MS, LeftoverProcesses } from './leftover-processes.js'

export interface SpawnOptions {
  /** Control path: beside it the successor writes why it ends. */
  control: string
  /** Default: no input, this process's stdout and stderr. */
  stdio?: StdioOptions | undefined
  /**
   * Makes {@link Successor.orphan} effective, for a successor that will be the main process of a unit. Not if `stdio` has a stream, and not without pidfds.
   */
  isGuarded?: boolean | undefined
  logger?: { info(facts: object, message: string): void } | undefined
}

/** Both are null if the exit is unknown. */
export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Successor {
  pid: number
  /** Owned by the caller. */
  exitReason: ExitReason
  /** Never rejects. Stays pending after {@link orphan}. */
  exited: Promise<Exit>
  /**
   * Ends the successor and the processes in its session: sends SIGTERM to its group and, `graceMs` later (default {@link GRACE_MS}; 0: at
   * once), SIGKILL to the remaining ones. Processes that left the session get no signal. Resolves with whether all have ended: this process
   * may not signal another user's process (sudo, setuid).
   */
  end(graceMs?: number): Promise<boolean>
  /** Closes the pidfds of its processes, which {@link end} then leaves alone. Idempotent. */
  release(): void
  /** Lets this process end before the successor, which keeps running in its own session. */
  unref(): void
  /**
   * Makes the service manager, or init, the parent of the successor, if it is guarded: a manager waits only for its own children. When this function returns,
   * that is done. Idempotent.
   */
  orphan(): void
}

/** Delay after a successor's end: the handoff, whose reason is more exact, must report it first. */
export const AFTERMATH_MS = 250
/** Time after the first SIGKILL before processes that do not end are given up. Short, because a client waits. */
const KILLED_MS = 2_000

/** Formats an exit as `with code 1` or `by SIGTERM`. */
export function exitText({ code, signal }: Exit): string {
  if (signal !== null) return `by ${signal}`
  // Node's own code.
  if (code === 13) return 'with code 13: a top-level await of it never settled, and nothing kept it alive'
  return code === null ? 'with an unknown code' : `with code ${code}`
}

/** A process that this one has started as the leader of a session, as the kernel or Node knows it. */
export interface StartedProcess {
  readonly pid: number
  /** Calls `ended` once, in the turn in which the process's pid is still its own. */
  onExit(ended: (exit: Exit) => void): void
  unref(): void
  orphan(): void
}

/** Starts a process as the leader of a session. Rejects with the error of the call that failed. */
export async function startDetached(start: ProgramStart, stdio: StdioOptions): Promise<StartedProcess> {
  const standard = startsApart() && hasPidfds() ? standardOf(stdio) : null
  return standard === null ? await startByNode(start, stdio) : startByAddon(start, standard)
}

function startByNode({ file, argv, cwd, env }: ProgramStart, stdio: StdioOptions): Promise<StartedProcess> {
  return new Promise((resolve, reject) => {
    // Loaded only here: most processes start no child.
    const { spawn } = process.getBuiltinModule('node:child_process')
    const [argv0, ...args] = argv
    const child: ChildProcess = spawn(file, args, {
      ...(argv0 !== undefined && { argv0 }),
      ...(cwd !== '' && { cwd }),
      env,
      stdio,
      detached: true,
    })
    child.once('error', reject)
    child.once('spawn', () => {
      child.off('error', reject)
      child.on('error', () => {})
      resolve({
        pid: child.pid!,
        onExit: ended => child.once('exit', (code, signal) => ended({ code, signal })),
        unref: () => child.unref(),
        orphan: () => {},
      })
    })
  })
}

function startByAddon(start: ProgramStart, standard: readonly StandardSource[]): StartedProcess {
  const end = new End()
  const program = startInSession(start, standard, status => end.report(exitOf(status)))
  return startedBy(program, end)
}

/** Throws the error of the call that failed. */
function startUnderGuardian(start: ProgramStart, standard: readonly StandardSource[]): StartedProcess {
  const end = new End()
  const ended = (status: number | null) => {
    if (status === null) watchUnguarded(program.pid, () => end.report({ code: null, signal: null }))
    else end.report(exitOf(status))
  }
  const program = startGuarded(start, standard, ended)
  return startedBy(program, end, () => program.orphan())
}

function startedBy(
  program: Pick<StartedProcess, 'pid' | 'unref'>,
  end: End,
  orphan = () => {},
): StartedProcess {
  return { pid: program.pid, onExit: ended => end.tell(ended), unref: () => program.unref(), orphan }
}

/** The end of a process, which may come before a listener. */
class End {
  #exit: Exit | null = null
  #listener: ((exit: Exit) => void) | null = null

  report(exit: Exit): void {
    this.#exit = exit
    this.#listener?.(exit)
  }

  tell(listener: (exit: Exit) => void): void {
    this.#listener = listener
    if (this.#exit !== null) listener(this.#exit)
  }
}

function exitOf(status: number): Exit {
  return status < 0 ? { code: null, signal: signalName(-status) } : { code: status, signal: null }
}

/** Watches a program whose guardian was killed: init reaps it, so its exit code stays unknown. */
function watchUnguarded(pid: number, ended: () => void): void {
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) {
    if (pidfd === 'dead') ended()
    return
  }
  using _ = pidfd
  watchDeath(pidfd, ended).unref()
}

function signalName(signal: number): NodeJS.Signals {
  const [name = 'SIGKILL'] = Object.entries(constants.signals).find(([, number]) => number === signal) ?? []
  return name as NodeJS.Signals
}

/** Returns the sources of stdin, stdout and stderr; null if one of them is a stream. */
function standardOf(stdio: StdioOptions): StandardSource[] | null {
  const all = Array.isArray(stdio) ? stdio : [stdio, stdio, stdio]
  return all.every(source => source === 'ignore' || source === 'inherit' || typeof source === 'number')
    ? all
    : null
}

/** Whether this kernel has pidfds, by which a guardian notices the end of its program. */
function hasPidfds(): boolean {
  using own = ownPidfd()
  return own !== null
}

/** Starts a member's successor in its own session. Rejects with ERR_FDB_SPAWN if it cannot be executed. */
export async function spawnSuccessor(command: ProgramStart, options: SpawnOptions): Promise<Successor> {
  const { control, stdio = ['ignore', 'inherit', 'inherit'], isGuarded = false, logger } = options
  const exitReason = new ExitReason(control)
  const env = startedWith({ ...command.env, ...exitReason.env })
  let child: StartedProcess
  try {
    const standard = isGuarded && hasPidfds() ? standardOf(stdio) : null
    child =
      standard === null
        ? await startDetached({ ...command, env }, stdio)
        : startUnderGuardian({ ...command, env }, standard)
  } catch (cause) {
    exitReason.close()
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause)
    const message = `cannot start the successor ${command.file} in ${command.cwd} (${code}): ${startRemedy(code)}`
    throw new FdbError('ERR_FDB_SPAWN', message, { cause, details: { file: command.file, cwd: command.cwd } })
  }
  const { pid } = child
  logger?.info({ pid, file: command.file }, 'successor started')
  let leftovers: LeftoverProcesses | null = null
  let isReleased = false
  const exited = new Promise<Exit>(done => {
    child.onExit(exit => {
      if (!isReleased) leftovers = LeftoverProcesses.ofSession(pid)
      logger?.info({ pid, ...exit }, 'successor exited')
      done(exit)
    })
  })
  const closePidfds = () => leftovers?.[Symbol.dispose]()
  const release = () => {
    isReleased = true
    closePidfds()
  }
  const session = {
    get hasEnded() {
      return isReleased || (leftovers?.hasEnded ?? false)
    },
    signal: (signal: number) => {
      if (isReleased) return
      // Before the child is reaped no other process group can get its pid.
      if (leftovers === null) trySignal(-pid, signal)
      else leftovers.signal(signal)
    },
  }
  const end = async (graceMs = GRACE_MS) => {
    const ended = await endProcesses(session, { graceMs, killedMs: KILLED_MS })
    closePidfds()
    return ended
  }
  const { unref, orphan } = child
  return { pid, exitReason, exited, end, release, unref, orphan }
}
