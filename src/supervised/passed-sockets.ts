import { giveNumber, type Inspected, inspectOne, type OwnedFd, ownNumber } from '../kernel/index.js'
import type { ListenerSpec } from '../listeners/index.js'
import { startedAs } from '../process/command-line.js'

/** The number of the first, see sd_listen_fds(3). */
const FIRST = 3
/** More are a fault of whoever set the variable. */
const MOST = 20_000
/** What such names begin with was kept for a service, see fd-store.ts. */
export const KEPT = 'fdb.'

interface Passed {
  readonly name: string
  readonly fd: OwnedFd
  readonly about: Inspected
}

/** What was found for a listener. */
export interface PassedListener {
  /** Owned by the caller. */
  readonly fd: OwnedFd
  /** It has the listener's name, and another address than was asked for. */
  readonly elsewhere: boolean
}

/**
 * Listening sockets that a service manager has bound for this process (`LISTEN_FDS`, `LISTEN_FDNAMES`: units of type socket). One that
 * nobody asks for stays as it is: the manager has it too.
 */
export class PassedSockets {
  #sockets: readonly Passed[]
  #kept: readonly Passed[]

  constructor(env: Readonly<NodeJS.ProcessEnv>) {
    const passed = passedBy(env)
    this.#kept = passed.filter(({ name }) => name.startsWith(KEPT))
    this.#sockets = passed.filter(({ name }) => !name.startsWith(KEPT))
  }

  /**
   * The one at this address; else, for tcp and udp, the only one that has this name (`FileDescriptorName=`). Null: there is none. The
   * path of a Unix socket stays the manager's.
   */
  take(name: string, spec: ListenerSpec): PassedListener | null {
    const fitting = this.#sockets.filter(({ about }) => fits(about, spec))
    const there = fitting.filter(({ about }) => isAt(about, spec))
    const found = there.find(each => each.name === name) ?? there[0]
    if (found !== undefined) return { fd: this.#give(found), elsewhere: false }
    const named = spec.kind === 'unix' ? [] : fitting.filter(each => each.name === name)
    return named.length === 1 ? { fd: this.#give(named[0]!), elsewhere: true } : null
  }

  /** The listening Unix socket of this path. Owned by the caller. */
  takePath(path: string): OwnedFd | null {
    const found = this.#sockets.find(
      ({ about }) => about.family === 'unix' && about.accepting && !about.abstract && about.address === path,
    )
    return found === undefined ? null : this.#give(found)
  }

  /** Of any kind: what a process before has given to the manager under such names. Owned by the caller. */
  takeKept(prefix: string): { readonly name: string; readonly fd: OwnedFd }[] {
    const taken = this.#kept.filter(({ name }) => name.startsWith(prefix))
    this.#kept = this.#kept.filter(({ name }) => !name.startsWith(prefix))
    return taken
  }

  #give(given: Passed): OwnedFd {
    this.#sockets = this.#sockets.filter(each => each !== given)
    return given.fd
  }
}

let ours: PassedSockets | null = null

/** Those of this process: a successor inherits the variables, and not the sockets. */
export function passedSockets(): PassedSockets {
  ours ??= new PassedSockets(startedAs.env)
  return ours
}

function passedBy({ LISTEN_FDS, LISTEN_FDNAMES = '', LISTEN_PID }: Readonly<NodeJS.ProcessEnv>): Passed[] {
  const count = Number(LISTEN_FDS)
  if (LISTEN_PID !== String(process.pid) || !(count >= 1 && count <= MOST)) return []
  const names = LISTEN_FDNAMES.split(':')
  const passed: Passed[] = []
  for (let i = 0; i < count; i++) {
    const name = names[i] ?? ''
    try {
      const fd = ownNumber(FIRST + i, `passed socket ${name}`)
      const about = inspectOne(fd)
      if (about.error === undefined && (about.type === 'socket' || name.startsWith(KEPT)))
        passed.push({ name, fd, about })
      else giveNumber(fd)
    } catch {
      // Not open: the variable says what is not so.
    }
  }
  return passed
}

function fits(about: Inspected, { kind }: ListenerSpec): boolean {
  const stream = about.socketType === 'stream' && about.accepting === true
  if (kind === 'unix') return about.family === 'unix' && stream
  const inet = about.family === 'inet' || about.family === 'inet6'
  return inet && (kind === 'tcp' ? stream : about.socketType === 'dgram')
}

function isAt(about: Inspected, { kind, host, port, path, abstract }: ListenerSpec): boolean {
  if (kind === 'unix') return about.address === path && (about.abstract ?? false) === abstract
  if (about.port !== port) return false
  // ListenStream=PORT is every address of both families.
  const every = about.address === '::' && about.ipv6Only === false
  return about.address === host || (every && host === '0.0.0.0')
}
