import type { ChildProcess, StdioOptions } from 'node:child_process'
import { FdbError } from '../errors.js'
import type { SuccessorCommand } from '../os/command-line.js'
import { ExitReason } from './exit-reason.js'
import { endProcesses, GRACE_MS, LeftoverProcesses } from './leftover-processes.js'
import { startedWith } from './successor-output.js'

export interface SpawnOptions {
  /** Path beside which the successor writes the reason of its end. */
  control: string
  /** Default: no input, this process's stdout and stderr. */
  stdio?: StdioOptions | undefined
  logger?: { info(facts: object, message: string): void } | undefined
}

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Successor {
  pid: number
  /** Owned by the caller. */
  exitReason: ExitReason
  /** Never rejects. */
  exited: Promise<Exit>
  /**
   * Ends the successor and all processes in its session: SIGTERM to its group, then, after `graceMs` (default {@link GRACE_MS}; 0: at once),
   * SIGKILL to all that are left.
   * Processes that left the session are not reached. Resolves with whether all have ended; another user's process (sudo, setuid) cannot be
   * ended.
   */
  end(graceMs?: number): Promise<boolean>
  /** Releases the successor, which serves or is no longer watched. Idempotent. */
  release(): void
  /** This process's end does not wait for it, nor end it: it has its own session. */
  unref(): void
}

/** Delay after a successor's end, for its handoff to report the reason. */
export const AFTERMATH_MS = 250
/** Limit for SIGKILL: the caller waits. */
const KILLED_MS = 2_000

/** Formats an exit as `with code 1` or `by SIGTERM`. */
export function exitText({ code, signal }: Exit): string {
  return signal === null ? `with code ${code}` : `by ${signal}`
}

/** Starts the next version in its own session. Rejects with ERR_FDB_SPAWN if it cannot be executed. (`fd-broker run` starts versions in run/running-version.ts.) */
export function spawnSuccessor(command: SuccessorCommand, options: SpawnOptions): Promise<Successor> {
  const { control, stdio = ['ignore', 'inherit', 'inherit'], logger } = options
  return new Promise((resolve, reject) => {
    const exitReason = new ExitReason(control)
    const failed = (cause: unknown) => {
      exitReason.close()
      const code = (cause as NodeJS.ErrnoException).code ?? String(cause)
      const message = `cannot start the successor ${command.file} in ${command.cwd} (${code}): check that it is executable and that the process limit is not reached`
      reject(
        new FdbError('ERR_FDB_SPAWN', message, { cause, details: { file: command.file, cwd: command.cwd } }),
      )
    }
    // Loaded lazily: most processes start no child.
    const { spawn } = process.getBuiltinModule('node:child_process')
    let child: ChildProcess
    try {
      child = spawn(command.file, command.args, {
        argv0: command.argv0,
        cwd: command.cwd,
        env: startedWith({ ...command.env, ...exitReason.env }),
        stdio,
        detached: true,
      })
    } catch (error) {
      failed(error)
      return
    }
    let leftovers: LeftoverProcesses | null = null
    const exited = new Promise<Exit>(done => {
      child.once('exit', (code, signal) => {
        leftovers = LeftoverProcesses.ofSession(child.pid!)
        logger?.info({ pid: child.pid, code, signal }, 'successor exited')
        done({ code, signal })
      })
    })
    child.once('error', failed)
    child.once('spawn', () => {
      logger?.info({ pid: child.pid, file: command.file }, 'successor started')
      child.off('error', failed)
      child.on('error', () => {})
      const letGo = () => leftovers?.[Symbol.dispose]()
      const session = {
        get hasEnded() {
          return leftovers?.hasEnded ?? false
        },
        signal: (signal: number) =>
          leftovers === null ? signalGroup(child.pid!, signal) : leftovers.signal(signal),
      }
      const end = async (graceMs = GRACE_MS) => {
        const ended = await endProcesses(session, { graceMs, killedMs: KILLED_MS })
        letGo()
        return ended
      }
      resolve({ pid: child.pid!, exitReason, exited, end, release: letGo, unref: () => child.unref() })
    })
  })
}

/** Not yet reaped, so the pid is still the child's and its group's. */
function signalGroup(pid: number, signal: number): void {
  try {
    process.kill(-pid, signal)
  } catch {
    // The child now runs as another user.
  }
}
