import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { isAlive, type ProcessIdentity } from '../../process/process-identity.js'

/** A process that was given descriptors. */
export type RightsHolder = ProcessIdentity

/** What a daemon that is started again must know of a service: whom to wait for. */
export interface RememberedService {
  readonly service: string
  readonly generation: number
  readonly startedAt: number
  readonly members: readonly RightsHolder[]
  /** The file that its members keep the state in; empty, or absent: none. */
  readonly stateFile?: string
  /** When one was lost last, milliseconds since 1970. */
  readonly diedAt?: number
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

  /** The services of an earlier daemon, and of their members those that still live. An unreadable file counts as none. */
  read(): RememberedService[] {
    let services: unknown
    try {
      services = JSON.parse(readFileSync(this.#path, 'utf8'))
    } catch {
      return []
    }
    if (!Array.isArray(services)) return []
    return services
      .filter(isService)
      .map(service => ({ ...service, members: service.members.filter(isAlive) }))
  }

  /** Throws when it cannot be written. */
  write(services: readonly RememberedService[]): void {
    const text = `${JSON.stringify(services, null, 1)}\n`
    if (text === this.#written) return
    const temporary = `${this.#path}~`
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, this.#path)
    this.#written = text
  }
}

function isService(value: unknown): value is RememberedService {
  const { service, generation, startedAt, members, stateFile, diedAt } = (value ??
    {}) as Partial<RememberedService>
  return (
    (stateFile === undefined || typeof stateFile === 'string') &&
    (diedAt === undefined || Number.isFinite(diedAt)) &&
    typeof service === 'string' &&
    Number.isSafeInteger(generation) &&
    Number.isFinite(startedAt) &&
    Array.isArray(members) &&
    members.every(
      member =>
        Number.isSafeInteger(member?.pid) &&
        member.pid >= 0 &&
        (member.startTime === undefined || typeof member.startTime === 'string') &&
        (member.instance === undefined || typeof member.instance === 'string'),
    )
  )
}
