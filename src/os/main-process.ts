import { readdirSync, readFileSync } from 'node:fs'
import { MAIN_PROCESS, startedAs } from './command-line.js'

/** Small init programs of containers: when their only child ends they end too, and so does the whole container. */
const SMALL_INITS: ReadonlySet<string> = new Set([
  'tini',
  'docker-init',
  'dumb-init',
  'catatonit',
  'podman-init',
])

/** Shells end with the last command of their command line, whatever else they have started. */
const SHELLS: ReadonlySet<string> = new Set(['sh', 'ash', 'bash', 'busybox', 'dash', 'ksh', 'zsh'])

interface MainProcessKind {
  readonly why: string
  /** Whether it is one of a systemd unit, which can be told of a new main process. */
  readonly ofUnit: boolean
  /** Whether all processes of the PID namespace end with it. */
  readonly ofNamespace: boolean
}

/**
 * Returns why the end of this process would end its descendants; null if it would not. With `managerKnows` a unit's main process does not
 * count, because the service manager is told of the new main process.
 */
export function mainProcess(managerKnows = false): string | null {
  return ownKind === null || (managerKnows && ownKind.ofUnit) ? null : ownKind.why
}

function find(pid: number, parent: number, env: Readonly<NodeJS.ProcessEnv>): MainProcessKind | null {
  if (pid === 1) {
    const why = 'it is PID 1 of its PID namespace (the main process of a container)'
    return { why, ofUnit: false, ofNamespace: true }
  }
  if (env[MAIN_PROCESS] === '1')
    return { why: `${MAIN_PROCESS}=1 says that it is a main process`, ofUnit: false, ofNamespace: false }
  const wrapper = outermostWrapper(pid)
  const through =
    wrapper === null || wrapper.pid === pid ? '' : ` (${wrapper.command}, process ${wrapper.pid})`
  // SYSTEMD_EXEC_PID is the pid of the process that systemd started: children inherit the variable but have another pid.
  if (env.INVOCATION_ID !== undefined && env.SYSTEMD_EXEC_PID === String(wrapper?.pid ?? pid)) {
    const why =
      through === ''
        ? 'it is the main process of a systemd unit'
        : `the main process of its systemd unit${through} ends with it`
    return { why, ofUnit: true, ofNamespace: false }
  }
  if (wrapper?.pid === 1) {
    const why = `PID 1 of its PID namespace${through} ends with it, and the whole container`
    return { why, ofUnit: false, ofNamespace: true }
  }
  if ((wrapper?.parent ?? parent) !== 1) return null
  const init = processStat(1)
  // An orphan's parent is the init too, but an orphan usually has a session of its own.
  if (init === null || !SMALL_INITS.has(init.command) || processStat(pid)?.session !== init.session)
    return null
  const why = `it is the main process of a container whose init is ${init.command}${through}`
  return { why, ofUnit: false, ofNamespace: true }
}

/** Whether a process has more than one child: a test runner or a supervisor does not end with one of them. */
function hasOtherChildren(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().includes(' ')
  } catch {
    return false // the kernel does not say
  }
}

/**
 * Returns the outermost ancestor that probably waits for this process only, and ends with it: a shell that runs a command line, `npm start`; all of the
 * same process group, because an interactive shell and a supervisor give each program a group of its own. The process itself if it has none; null without /proc.
 */
function outermostWrapper(pid: number): { pid: number; parent: number; command: string } | null {
  const own = processStat(pid)
  if (own === null) return null
  let outermost = { pid, ...own }
  for (const at of ancestryOf(pid)) {
    const found = processStat(at)
    if (found === null || found.session !== own.session || found.group !== own.group) break
    if (at !== pid && !SHELLS.has(found.command) && hasOtherChildren(at)) break
    outermost = { pid: at, ...found }
  }
  return outermost
}

const PF_EXITING = 4

/** Fields of proc_pid_stat(5). */
interface ProcessStat {
  readonly command: string
  /** The state of its main thread. */
  readonly state: string
  /** Whether all threads have ended. A main thread that has ended is a zombie (state Z) while others live. */
  readonly hasEnded: boolean
  readonly parent: number
  readonly group: number
  readonly session: number
  /** 0: no controlling terminal. */
  readonly terminal: number
  readonly startTicks: number
}

/** Returns facts about a process; null if it does not exist or is not visible. */
export function processStat(pid: number): ProcessStat | null {
  return statIfSeen(pid) ?? null
}

/** Returns facts about a process; null if it does not exist; undefined if that is unknown. */
export function statIfSeen(pid: number): ProcessStat | null | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const end = stat.lastIndexOf(')')
    const fields = stat.slice(end + 2).split(' ')
    const [state = ''] = fields
    return {
      hasEnded: state === 'X' || (state === 'Z' && Number(fields[17]) <= 1),
      command: stat.slice(stat.indexOf('(') + 1, end),
      state,
      parent: Number(fields[1]),
      group: Number(fields[2]),
      session: Number(fields[3]),
      terminal: Number(fields[4]),
      startTicks: Number(fields[19]),
    }
  } catch {
    // /proc may hide a living process (`hidepid`, `ProtectProc=invisible`), and this process may have no free descriptor.
    return isTaken(pid) ? undefined : null
  }
}

/** Whether each thread of a process is ending; descriptors may be open still (PF_EXITING in the kernel's sched.h). False if that is not visible. */
export function isExiting(pid: number): boolean {
  try {
    const threads = readdirSync(`/proc/${pid}/task`)
    return threads.length > 0 && threads.every(thread => isThreadExiting(`/proc/${pid}/task/${thread}/stat`))
  } catch {
    return false
  }
}

function isThreadExiting(file: string): boolean {
  try {
    const stat = readFileSync(file, 'latin1')
    const flags = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[6]
    return (Number(flags) & PF_EXITING) !== 0
  } catch (error) {
    if (/^(?:ENOENT|ESRCH)$/.test((error as NodeJS.ErrnoException).code ?? '')) return true
    throw error
  }
}

/** Whether a process has this pid. */
function isTaken(pid: number): boolean {
  // 0 and negative numbers name process groups.
  if (pid <= 0) return false
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

/** Limit of the loop in `ancestryOf()`, in which reused pids may form a circle. */
const MOST_STEPS = 100

/** Yields the pids of a process and of its visible ancestors, nearest first; without /proc only its own. */
export function* ancestryOf(pid: number): Generator<number> {
  let at = pid
  for (let steps = 0; at > 0 && steps < MOST_STEPS; steps++) {
    yield at
    at = processStat(at)?.parent ?? 0
  }
}

/**
 * Returns the processes that have started the current one, each through those after it. Call it at the start: the parent may end. PID 1 counts only
 * if this process is of its session: an orphan's parent is PID 1, too.
 */
export function startingProcesses(): ReadonlySet<number> {
  const session = processStat(process.pid)?.session
  const found = new Set(ancestryOf(process.ppid))
  if (processStat(1)?.session !== session) found.delete(1)
  return found
}

/** Also true if both are the same process. */
export function descendsFrom(pid: number, from: number): boolean {
  for (const at of ancestryOf(pid)) if (at === from) return true
  return false
}

/** Whether process `pid` is a descendant of this process or, if its PID namespace ends with this process, any other one of it. */
export function endsWithUs(pid: number): boolean {
  if (pid <= 0 || pid === process.pid) return false
  if (ownKind?.ofNamespace) return processStat(pid) !== null
  return descendsFrom(pid, process.pid)
}

/** Determined when this process starts: later its parent may be another process. Last in this module, because it uses all of it. */
const ownKind = find(process.pid, process.ppid, startedAs.env)
