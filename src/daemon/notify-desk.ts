import { lstatSync, unlinkSync } from 'node:fs'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { Registry } from '../holder/registry.js'
import {
  bindSocket,
  connectToDatagram,
  type NativeError,
  type OwnedFd,
  setSocketOption,
} from '../kernel/index.js'
import { type NotifyMessage, NotifyReceiver } from '../os/service-manager/notify-receiver.js'
import type { ProgramStore } from './service/program-store.js'

/** See sd_pid_notify_with_fds(3). */
const NAME = /^[\x20-\x39\x3b-\x7e]{1,255}$/
const UNNAMED = 'stored'

export interface NotifyDeskParts {
  readonly path: string
  /** The socket is an entry of it: what becomes of that becomes of it. */
  readonly registry: Registry
  readonly wanted: Set<string>
  readonly programs: ProgramStore
  readonly logger: Logger
  /** Descriptors may come and go. */
  readonly settled: () => boolean
}

/**
 * Hears programs at a notify socket, as systemd does: what they give away (FDSTORE=1, FDNAME=, FDPOLL=0, FDSTOREREMOVE=1) is kept, BARRIER=1 is
 * waited for by its sender, all else is not for us. Who may is the user of the daemon, and root, by the kernel's word for each message.
 */
export class NotifyDesk {
  readonly #parts: NotifyDeskParts
  #receiver: NotifyReceiver | null

  /** Throws ERR_FDB_ADDRESS_IN_USE, ERR_FDB_BIND. */
  constructor(parts: NotifyDeskParts) {
    this.#parts = parts
    this.#receiver = new NotifyReceiver(socketFor(parts), {
      received: message => this.#take(message),
      // During a handoff messages wait in the socket for the daemon that serves after it.
      mustWait: () => !parts.settled(),
    })
  }

  /** `kept`: another process has the socket, and hears what waits in it; else its path is removed. Idempotent. */
  close(how: { readonly kept: boolean }): void {
    if (this.#receiver === null) return
    this.#receiver.close()
    this.#receiver = null
    if (how.kept) return
    try {
      unlinkSync(this.#parts.path)
    } catch {
      // Somebody else has removed it.
    }
  }

  /** Keeps the descriptors of FDSTORE=1. */
  #take({ words, truncated, from, fds }: NotifyMessage): void {
    const { logger, programs } = this.#parts
    const { pid, uid } = from
    const own = process.geteuid?.() ?? 0
    if (uid !== own && uid !== 0) {
      const facts = { audit: 'descriptor', pid, uid, code: 'ERR_FDB_DENIED' }
      logger.warn(facts, 'a process of another user said something at the notify socket')
      return
    }
    if (truncated) {
      logger.warn({ pid, uid }, 'a message at the notify socket did not come whole, and counts for nothing')
      return
    }
    const said = words.get('FDNAME') ?? UNNAMED
    const name = NAME.test(said) ? said : UNNAMED
    const by = { pid, uid }
    if (words.get('FDSTOREREMOVE') === '1') programs.drop({ service: programs.serviceOf(pid), name }, by)
    else if (words.get('FDSTORE') === '1') {
      const as = { service: programs.serviceOf(pid), name, polled: words.get('FDPOLL') !== '0' }
      programs.keep(as, fds.splice(0), by)
    }
  }
}

/** The one that the daemon before had, or a new one. It stays the registry's. */
function socketFor({ path, registry, wanted }: NotifyDeskParts): OwnedFd {
  const key = `notify/${encodeURIComponent(path)}`
  for (const other of registry.names) if (other.startsWith('notify/') && other !== key) registry.drop(other)
  if (registry.get(key) === undefined) {
    const fd = bound(path)
    setSocketOption(fd, 'passCred', true)
    registry.put({ name: key, role: 'named', spec: '', fd })
  }
  wanted.add(key)
  return registry.get(key)!.fd
}

function bound(path: string): OwnedFd {
  const bind = () => bindSocket({ kind: 'unix', host: path, datagram: true, mode: 0o600 }, 'notify socket')
  try {
    return bind()
  } catch (error) {
    if ((error as NativeError).code !== 'EADDRINUSE') throw notBound(path, error)
  }
  try {
    if (isAbandoned(path)) unlinkSync(path)
    return bind()
  } catch (error) {
    throw notBound(path, error)
  }
}

/** A socket that nobody reads from. */
function isAbandoned(path: string): boolean {
  if (!lstatSync(path).isSocket()) return false
  try {
    connectToDatagram(path, false, 'notify socket').close()
    return false
  } catch (error) {
    return (error as NativeError).code === 'ECONNREFUSED'
  }
}

function notBound(path: string, cause: unknown): FdbError {
  const { code } = cause as NativeError
  if (code === 'EADDRINUSE')
    return new FdbError(
      'ERR_FDB_ADDRESS_IN_USE',
      `${path} is there already, and is not this daemon's notify socket`,
      { cause },
    )
  return new FdbError('ERR_FDB_BIND', `the notify socket ${path} cannot be bound (${code})`, { cause })
}
