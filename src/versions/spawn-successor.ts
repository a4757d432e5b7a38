import type { ChildProcess, StdioOptions } from 'node:child_process'
import { startedWith } from '../base/successor-output.js'
import { FdbError } from '../errors.js'
import { type ProgramStart, trySignal } from '../kernel/index.js'
import { ExitReason } from './exit-reason.js'
import { endProcesses, GRACE_MS, LeftoverProcesses } from './leftover-processes.js'

export interface SpawnOptions {
  /** Control path: beside it the successor writes why it ends. */
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
   * Ends the successor and the processes in its session: sends SIGTERM to its group and, `graceMs` later (default {@link GRACE_MS}; 0: at
   * once), SIGKILL to the remaining ones. Processes that left the session get no signal. Resolves with whether all have ended: this process
   * may not signal another user's process (sudo, setuid).
   */
  end(graceMs?: number): Promise<boolean>
  /** Closes the pidfds of its processes, which {@link end} then leaves alone. Idempotent. */
  release(): void
  /** Lets this process end before the successor, which keeps running in its own session. */
  unref(): void
}

/** Delay after a successor's end: the handoff, whose reason is more exact, must report it first. */
export const AFTERMATH_MS = 250
/** Time after the first SIGKILL before processes that do not end are given up. Short, because a client waits. */
const KILLED_MS = 2_000

/** Formats an exit as `with code 1` or `by SIGTERM`. */
export function exitText({ code, signal }: Exit): string {
  return signal === null ? `with code ${code}` : `by ${signal}`
}

/** Starts a member's successor in its own session. Rejects with ERR_FDB_SPAWN if it cannot be executed. */
export function spawnSuccessor(command: ProgramStart, options: SpawnOptions): Promise<Successor> {
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
    // Loaded only here: most processes start no child.
    const { spawn } = process.getBuiltinModule('node:child_process')
    let child: ChildProcess
    try {
      const [argv0, ...args] = command.argv
      child = spawn(command.file, args, {
        ...(argv0 !== undefined && { argv0 }),
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
    let isReleased = false
    const exited = new Promise<Exit>(done => {
      child.once('exit', (code, signal) => {
        if (!isReleased) leftovers = LeftoverProcesses.ofSession(child.pid!)
        logger?.info({ pid: child.pid, code, signal }, 'successor exited')
        done({ code, signal })
      })
    })
    child.once('error', failed)
    child.once('spawn', () => {
      logger?.info({ pid: child.pid, file: command.file }, 'successor started')
      child.off('error', failed)
      child.on('error', () => {})
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
          if (leftovers === null) trySignal(-child.pid!, signal)
          else leftovers.signal(signal)
        },
      }
      const end = async (graceMs = GRACE_MS) => {
        const ended = await endProcesses(session, { graceMs, killedMs: KILLED_MS })
        closePidfds()
        return ended
      }
      resolve({ pid: child.pid!, exitReason, exited, end, release, unref: () => child.unref() })
    })
  })
}
