import { readFileSync } from 'node:fs'
import { MAIN_PROCESS, startedAs } from './command-line.js'

/** Small init programs of containers: when their only child ends they end too, and so does the whole container. */
const SMALL_INITS: ReadonlySet<string> = new Set([
  'tini',
  'docker-init',
  'dumb-init',
  'catatonit',
  'podman-init',
])

interface MainProcessKind {
  /** Why the process is a main process. */
  readonly why: string
  /** Whether it is one of a systemd unit, which can be told of a new main process. */
  readonly ofUnit: boolean
}

/** Determined when this process starts: later its parent may be another process. */
const ownKind = find(process.pid, process.ppid, startedAs.env)

/**
 * Returns why the end of this process would end its descendants; null if it would not. With `managerKnows` a unit's main process does not
 * count, because the service manager is told of the new main process.
 */
export function mainProcess(managerKnows = false): string | null {
  return ownKind === null || (managerKnows && ownKind.ofUnit) ? null : ownKind.why
}

function find(pid: number, parent: number, env: Readonly<NodeJS.ProcessEnv>): MainProcessKind | null {
  if (pid === 1)
    return { why: 'it is PID 1 of its PID namespace (the main process of a container)', ofUnit: false }
  if (env[MAIN_PROCESS] === '1')
    return { why: `${MAIN_PROCESS}=1 says that it is a main process`, ofUnit: false }
  // SYSTEMD_EXEC_PID is the pid of the process that systemd started: children inherit the variable but have another pid.
  if (env.INVOCATION_ID !== undefined && env.SYSTEMD_EXEC_PID === String(pid))
    return { why: 'it is the main process of a systemd unit', ofUnit: true }
  if (parent !== 1) return null
  const init = statOf(1)
  // An orphan's parent is the init too, but an orphan usually has a session of its own.
  if (init === null || !SMALL_INITS.has(init.command) || statOf(pid)?.session !== init.session) return null
  return { why: `it is the main process of a container whose init is ${init.command}`, ofUnit: false }
}

/** Fields of proc_pid_stat(5). */
interface ProcessStat {
  readonly command: string
  readonly state: string
  readonly parent: number
  readonly group: number
  readonly session: number
  /** 0: no controlling terminal. */
  readonly terminal: number
  readonly startTicks: number
}

/** Returns facts about a process; null if it does not exist or is not visible. */
export function statOf(pid: number): ProcessStat | null {
  return statIfSeen(pid) ?? null
}

/** Returns facts about a process; null if it does not exist; undefined if that is unknown. */
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

/** Limit of the loop in `ancestryOf()`, in which reused pids may form a circle. */
const MOST_STEPS = 100

/** Yields the pids of a process and of its visible ancestors, nearest first; without /proc only its own. */
export function* ancestryOf(pid: number): Generator<number> {
  let at = pid
  for (let steps = 0; at > 0 && steps < MOST_STEPS; steps++) {
    yield at
    at = statOf(at)?.parent ?? 0
  }
}

/** Also true if both are the same process. */
export function descendsFrom(pid: number, from: number): boolean {
  for (const at of ancestryOf(pid)) if (at === from) return true
  return false
}

/** Whether process `pid` is a descendant of this process or, if this process is PID 1, any other process of its PID namespace. */
export function endsWithUs(pid: number): boolean {
  if (pid <= 0 || pid === process.pid) return false
  if (process.pid === 1) return statOf(pid) !== null
  return descendsFrom(pid, process.pid)
}
