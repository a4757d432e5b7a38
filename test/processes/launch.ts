import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { procText } from './proc-file.js'

/** `setsid` needs no fork here: a background job of a non-interactive shell leads no group, so `$!` is the command. */
const LAUNCH = 'setsid "$@" </dev/null >>"$FDB_TEST_LOG" 2>&1 & echo $!'

/**
 * Starts a command without a parent of ours: in a session of its own, its launcher exits at once, so that init adopts it. The
 * output is appended to `log`. Resolves with its pid.
 */
export async function launchUnrelated(
  command: readonly string[],
  { log, env }: { log: string; env: NodeJS.ProcessEnv },
): Promise<number> {
  const { stdout } = await promisify(execFile)('/bin/sh', ['-c', LAUNCH, 'sh', ...command], {
    env: { ...env, FDB_TEST_LOG: log },
  })
  return Number(stdout)
}

/** The place of the number of threads among the fields of /proc/PID/stat, from the state on. */
const THREADS = 17

/** One that waits to be reaped has ended too. After SIGKILL the main thread is a zombie before the others have ended, on a busy machine by a second. */
export function hasEnded(pid: number): boolean {
  const stat = procText(pid, 'stat')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return stat === '' || (/[ZX]/.test(fields[0]!) && Number(fields[THREADS]) <= 1)
}

/** A signal, unless it has ended. */
export function signalPid(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** The ancestors of a process, nearest first, down to init (which is included). */
export function ancestorsOf(pid: number): number[] {
  const chain: number[] = []
  for (let at = parentOf(pid); at > 0; at = parentOf(at)) chain.push(at)
  return chain
}

/** 0: it has none, or is gone. */
function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ESRCH') return 0
    throw error
  }
}
