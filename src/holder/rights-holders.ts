import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { OwnedFd } from '../fd/owned.js'
import { native } from '../native.js'

/** A process that was given descriptors. */
export interface RightsHolder {
  readonly pid: number
  /** Start time in clock ticks since boot: tells a process from a later one with its pid. Absent: cannot be seen from here. */
  readonly startTime?: string
}

/** What a daemon that is started again must know of a service: whom to wait for. */
export interface ServiceRecord {
  readonly service: string
  readonly generation: number
  readonly startedAt: number
  readonly members: readonly RightsHolder[]
}

/**
 * The list of rights-holders beside a daemon's control socket. Sockets and state are in the members' hands while the
 * daemon is away; this file only says of whom there were any, so that the next daemon names no writer before each is
 * back or proved dead. Written atomically on change.
 */
export class RightsHolders {
  readonly #path: string
  #written = ''

  constructor(control: string) {
    this.#path = `${control}.members`
  }

  /** Those of an earlier daemon that still live; services with none are left out. An unreadable file counts as none. */
  read(): ServiceRecord[] {
    let records: unknown
    try {
      records = JSON.parse(readFileSync(this.#path, 'utf8'))
    } catch {
      return []
    }
    if (!Array.isArray(records)) return []
    return records
      .filter(isRecord)
      .map(record => ({ ...record, members: record.members.filter(isAlive) }))
      .filter(record => record.members.length > 0)
  }

  /** Throws when it cannot be written. */
  write(records: readonly ServiceRecord[]): void {
    const text = `${JSON.stringify(records, null, 1)}\n`
    if (text === this.#written) return
    const temporary = `${this.#path}~`
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, this.#path)
    this.#written = text
  }
}

/** A process that lives now. `pidfd`: its own, if there is one; borrowed for the call. */
export function rightsHolder(pid: number, pidfd: OwnedFd | null): RightsHolder {
  // In another PID namespace its number is another process's here.
  const seen = pidfd === null || native.pidfdPid(pidfd.raw) === pid
  const startTime = seen ? startTimeOf(pid) : null
  return startTime === null || startTime === undefined ? { pid } : { pid, startTime }
}

/** One that could not be seen when it was written down cannot be proved dead either, nor one that cannot be seen now. */
export function isAlive({ pid, startTime }: RightsHolder): boolean {
  if (startTime === undefined) return true
  const now = startTimeOf(pid)
  return now === undefined || now === startTime
}

function isRecord(value: unknown): value is ServiceRecord {
  const { service, generation, startedAt, members } = (value ?? {}) as Partial<ServiceRecord>
  return (
    typeof service === 'string' &&
    Number.isSafeInteger(generation) &&
    Number.isFinite(startedAt) &&
    Array.isArray(members) &&
    members.every(
      member =>
        Number.isSafeInteger(member?.pid) &&
        member.pid >= 0 &&
        (member.startTime === undefined || typeof member.startTime === 'string'),
    )
  )
}

/**
 * Field 22 of /proc/PID/stat; the command in field 2 may hold spaces and parentheses. Null: there is no such process;
 * undefined: it cannot be told.
 */
function startTimeOf(pid: number): string | null | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? null : fields[19]
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ESRCH' ? null : undefined
  }
}
