import { readdirSync, readFileSync } from 'node:fs'
import { MAIN_PROCESS, startedAs } from './command-line.js'

/** Small inits of containers: they end with their one child, and all else ends with them. */
const SMALL_INITS: ReadonlySet<string> = new Set([
  'tini',
  'docker-init',
  'dumb-init',
  'catatonit',
  'podman-init',
])

/** Why a process is one, and whether another can be named in its place. */
interface Main {
  readonly why: string
  readonly ofUnit: boolean
}

/** The parent at start: later its parent may be another. */
const found = find(process.pid, process.ppid, startedAs.env)

/** Why the end of this process would end its descendants; null: it would not. `told`: the service manager hears of another main process. */
export function mainProcess(told = false): string | null {
  return found === null || (told && found.ofUnit) ? null : found.why
}

function find(pid: number, parent: number, env: Readonly<NodeJS.ProcessEnv>): Main | null {
  if (pid === 1)
    return { why: 'it is PID 1 of its PID namespace (the main process of a container)', ofUnit: false }
  if (env[MAIN_PROCESS] === '1')
    return { why: `${MAIN_PROCESS}=1 says that it is a main process`, ofUnit: false }
  // systemd names the process that it has started: the variables are inherited, the number is not.
  if (env.INVOCATION_ID !== undefined && env.SYSTEMD_EXEC_PID === String(pid))
    return { why: 'it is the main process of a systemd unit', ofUnit: true }
  if (parent !== 1) return null
  const init = statOf(1)
  // One that was left behind by its own parent has a session of its own, as a rule.
  if (init === null || !SMALL_INITS.has(init.command) || statOf(pid)?.session !== init.session) return null
  return { why: `it is the main process of a container whose init is ${init.command}`, ofUnit: false }
}

/** The kernel's facts of a process, see proc_pid_stat(5). */
interface ProcessStat {
  readonly command: string
  readonly state: string
  readonly parent: number
  readonly group: number
  readonly session: number
  /** The controlling terminal's number; 0: none. */
  readonly terminal: number
  readonly startTicks: number
}

/** Null: there is no such process, or it cannot be seen. */
export function statOf(pid: number): ProcessStat | null {
  return statIfSeen(pid) ?? null
}

/** Null: there is no such process; undefined: it cannot be told. */
export function statIfSeen(pid: number): ProcessStat | null | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const end = stat.lastIndexOf(')')
    const fields = stat.slice(end + 2).split(' ')
    return {
      command: stat.slice(stat.indexOf('(') + 1, end),
      state: fields[0] ?? '',
      parent: Number(fields[1]),
      group: Number(fields[2]),
      session: Number(fields[3]),
      terminal: Number(fields[4]),
      startTicks: Number(fields[19]),
    }
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ESRCH' ? null : undefined
  }
}

/** More steps up than this are a loop of numbers that are given anew. */
const MOST_STEPS = 100

/** The process and its ancestors that can be seen from here, nearest first. Where /proc does not tell: itself. */
export function* lineOf(pid: number): Generator<number> {
  let at = pid
  for (let steps = 0; at > 0 && steps < MOST_STEPS; steps++) {
    yield at
    at = statOf(at)?.parent ?? 0
  }
}

/** Whether a process is another one, or descends from it. */
export function descendsFrom(pid: number, from: number): boolean {
  for (const at of lineOf(pid)) if (at === from) return true
  return false
}

/** The processes that can be seen; none where they cannot be told: no descriptor is free, or there is no /proc. */
export function processes(): number[] {
  try {
    return readdirSync('/proc').map(Number).filter(Number.isInteger)
  } catch {
    return []
  }
}

/** Whether the end of this process ends that one too, as it is this one's descendant, or in the namespace that ends with it. */
export function endsWithUs(pid: number): boolean {
  if (pid <= 0 || pid === process.pid) return false
  if (process.pid === 1) return statOf(pid) !== null
  return descendsFrom(pid, process.pid)
}
