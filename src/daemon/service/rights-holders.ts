import { isAlive, type ProcessIdentity } from '../../os/process-identity.js'
import { readSideFile, writeSideFile } from '../../os/side-file.js'

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
  /** Another user than the daemon's has, or had, members of it. */
  readonly foreign?: boolean
}

/**
 * The list of rights-holders beside a daemon's control socket. Sockets and state are in the members' hands while the
 * daemon is away; this file only says of whom there were any, so that the next daemon names no writer before each is
 * back or proved dead. Written atomically on change, and of each service anew only what has changed: there may be many.
 */
export class RightsHolders {
  readonly #path: string
  readonly #refused: (error: unknown) => void
  /** By service, as it is written. */
  readonly #lines = new Map<string, string>()
  /** The file says something else. */
  #stale = true

  /** `refused`: the file is not this user's, or cannot be read. */
  constructor(control: string, refused: (error: unknown) => void = () => {}) {
    this.#path = `${control}.members`
    this.#refused = refused
  }

  /**
   * The services of an earlier daemon, and of their members those that still live. A file that cannot be read, or that another user may have written, counts
   * as none, and is told.
   */
  read(): RememberedService[] {
    let services: unknown
    try {
      services = JSON.parse(readSideFile(this.#path) ?? '[]')
    } catch (error) {
      this.#refused(error)
      return []
    }
    if (!Array.isArray(services)) return []
    return services
      .filter(isService)
      .map(service => ({ ...service, members: service.members.filter(isAlive) }))
  }

  /** Counts when it is written. */
  note(remembered: RememberedService): void {
    const line = JSON.stringify(remembered)
    if (this.#lines.get(remembered.service) === line) return
    this.#lines.set(remembered.service, line)
    this.#stale = true
  }

  /** The service is no more. Counts when it is written. */
  forget(service: string): void {
    if (this.#lines.delete(service)) this.#stale = true
  }

  /** These, and no others. Counts when it is written. */
  replace(services: readonly RememberedService[]): void {
    this.#lines.clear()
    this.#stale = true
    for (const remembered of services) this.note(remembered)
  }

  /** Throws when it cannot be written: it is tried with the next change. */
  write(): void {
    if (!this.#stale) return
    writeSideFile(this.#path, `[\n${[...this.#lines.values()].join(',\n')}\n]\n`, 0o600)
    this.#stale = false
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
