import { readFileSync, renameSync, writeFileSync } from 'node:fs'

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
    let records: ServiceRecord[]
    try {
      records = JSON.parse(readFileSync(this.#path, 'utf8')) as ServiceRecord[]
    } catch {
      return []
    }
    if (!Array.isArray(records)) return []
    return records
      .filter(record => typeof record?.service === 'string' && Array.isArray(record.members))
      .map(record => ({ ...record, members: record.members.filter(isAlive) }))
  }

  write(records: readonly ServiceRecord[]): void {
    const text = `${JSON.stringify(records.map(withStartTimes), null, 1)}\n`
    if (text === this.#written) return
    const temporary = `${this.#path}~`
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, this.#path)
    this.#written = text
  }
}

function withStartTimes(record: ServiceRecord): ServiceRecord {
  return {
    ...record,
    members: record.members.map(({ pid }) => {
      const startTime = startTimeOf(pid)
      return startTime === null ? { pid } : { pid, startTime }
    }),
  }
}

function isAlive({ pid, startTime }: RightsHolder): boolean {
  // One that could not be seen when it was written down cannot be proved dead either.
  return startTime === undefined || startTimeOf(pid) === startTime
}

/** Field 22 of /proc/PID/stat; the command in field 2 may hold spaces and parentheses. */
function startTimeOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? null : (fields[19] ?? null)
  } catch {
    return null
  }
}
