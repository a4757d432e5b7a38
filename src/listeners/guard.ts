import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Logger } from '../base/logger.js'
import {
  DISCONNECT,
  inspectOne,
  listen,
  namesSocket,
  type OwnedFd,
  type Poll,
  watchShared,
} from '../kernel/index.js'
import { formatAddress } from './identity.js'
import { keepPath, restorePath } from './kept-path.js'
import { PathWatches } from './path-watches.js'
import { isPath, type ListenerSpec } from './spec.js'

/** Interval at which the paths of Unix listeners are checked. The kernel reports a shutdown(2) and a removed path at once, if it can. */
const PATH_CHECK_MS = 1_000
/** Minimum time between two times at which a removed path is noticed: a program that removes it again and again must not keep this process busy. */
const NOTICE_MS = 50
/** Minimum time between two log lines about the same repair. */
const LOG_MS = 60_000
/** Node's default. Used if the specification is unknown. */
const BACKLOG = 511

export interface GuardedListener {
  readonly name: string
  /** Null if the path belongs to another process. */
  readonly spec: ListenerSpec | null
  readonly fd: OwnedFd
}

interface Guarded {
  readonly name: string
  readonly spec: ListenerSpec | null
  readonly address: string
  /** Null while the kernel has no memory for it, and after a shutdown that cannot be undone. */
  poll: Poll | null
  /** A Unix socket was shut down. */
  isEnded: boolean
  /** Why clients cannot reach the listener; null if they can. */
  fault: string | null
  mendedAt: number
  loggedAt: number
  /** The fault of the last check; a fault is logged when two checks find it, because a path may be just being removed with its listener. */
  seen: string | null
}

/**
 * Keeps shared listeners reachable. Each process that has a duplicate can end the socket for all of them by shutdown(2), as WEBrick does when it
 * stops: a TCP socket listens again. A removed path of a Unix socket is linked again. Other faults are logged, and shown by `status`. Borrows the descriptors: remove a listener before you close it.
 */
export class ListenerGuard implements Disposable {
  readonly #logger: Logger
  readonly #guarded = new Map<OwnedFd, Guarded>()
  readonly #watches = new PathWatches(folder => this.#pathRemoved(folder))
  #timer: NodeJS.Timeout | undefined
  #watchSoon: NodeJS.Timeout | undefined
  /** False if another user chose the paths: that user may redirect them to other files. */
  keepsPaths = true

  constructor(logger: Logger) {
    this.#logger = logger
  }

  /** Does nothing for a descriptor that does not listen. */
  add({ fd, name, spec }: GuardedListener): void {
    const about = inspectOne(fd)
    if (about.accepting !== true || this.#guarded.has(fd)) return
    const guarded: Guarded = {
      name,
      spec,
      address: formatAddress(about),
      poll: null,
      isEnded: false,
      mendedAt: Number.NEGATIVE_INFINITY,
      loggedAt: Number.NEGATIVE_INFINITY,
      fault: null,
      seen: null,
    }
    this.#guarded.set(fd, guarded)
    this.#watch(fd, guarded)
    if (isPath(guarded.spec) && this.keepsPaths) {
      keepPath(fd, guarded.spec.path)
      // Several listeners are added in one turn.
      this.#watchPathsIn(0)
    }
    this.#timer ??= setInterval(() => this.check(), PATH_CHECK_MS).unref()
  }

  /** Idempotent. */
  remove(fd: OwnedFd): void {
    this.#guarded.get(fd)?.poll?.close()
    this.#guarded.delete(fd)
    if (this.#guarded.size > 0) return
    clearInterval(this.#timer)
    clearTimeout(this.#watchSoon)
    this.#timer = this.#watchSoon = undefined
    this.#watches[Symbol.dispose]()
  }

  /** Returns why clients cannot reach the listener; null if they can, or if it is not guarded. */
  faultOf(fd: OwnedFd): string | null {
    return this.#guarded.get(fd)?.fault ?? null
  }

  /** Mends what can be mended now. Never throws. */
  check(): void {
    for (const [fd, guarded] of this.#guarded) {
      const { spec } = guarded
      if (guarded.poll === null && !guarded.isEnded) this.#watch(fd, guarded)
      if (isPath(spec)) {
        if (!guarded.isEnded) this.#found(guarded, this.#checkPath(fd, spec.path, guarded))
      } else if (inspectOne(fd).accepting === false) this.#listenAgain(fd, guarded)
    }
    const hasPaths = [...this.#guarded.values()].some(guarded => this.#keptPath(guarded) !== null)
    if (hasPaths) this.#watchPathsIn(0)
  }

  [Symbol.dispose](): void {
    for (const fd of [...this.#guarded.keys()]) this.remove(fd)
  }

  #watch(fd: OwnedFd, guarded: Guarded): void {
    try {
      guarded.poll = watchShared(fd, () => this.#disconnected(fd, guarded))
      guarded.poll.unref()
      guarded.poll.start(DISCONNECT)
    } catch (error) {
      this.#unwatch(guarded)
      // The next check tries again, and finds a TCP socket that was shut down meanwhile.
      this.#logger.debug(
        { err: error, listener: guarded.name },
        'the kernel does not report the end of a listener',
      )
    }
  }

  #watchPathsIn(ms: number): void {
    this.#watchSoon ??= setTimeout(() => {
      this.#watchSoon = undefined
      this.#watchPaths()
    }, ms).unref()
  }

  #watchPaths(): void {
    const kept = [...this.#guarded].flatMap(([fd, guarded]) => {
      const path = this.#keptPath(guarded)
      return path === null ? [] : [{ fd, path, guarded }]
    })
    try {
      this.#watches.watch(kept.map(({ path }) => path))
    } catch (error) {
      // The checks look at the paths themselves, and the next one tries again.
      this.#logger.debug({ err: error }, 'the kernel does not report removed paths of listeners')
    }
    // After the watch has begun: it does not report an earlier removal. A path that is restored now is not watched yet.
    const gone = kept.filter(({ fd, path }) => namesSocket(fd, path) === false)
    if (gone.some(({ fd, path, guarded }) => this.#leadsTo(fd, path, guarded))) this.#watchPathsIn(NOTICE_MS)
  }

  #pathRemoved(folder: string): void {
    for (const [fd, guarded] of this.#guarded) {
      const path = this.#keptPath(guarded)
      if (path !== null && dirname(path) === folder) this.#leadsTo(fd, path, guarded)
    }
    this.#watchPathsIn(NOTICE_MS)
  }

  /** The path that this process restores; null if there is none. */
  #keptPath({ spec, isEnded }: Guarded): string | null {
    return this.keepsPaths && isPath(spec) && !isEnded ? spec.path : null
  }

  /** Restores the path if it was removed. Returns whether it leads to the socket. */
  #leadsTo(fd: OwnedFd, path: string, guarded: Guarded): boolean {
    if (namesSocket(fd, path) !== false) return true
    if (!restorePath(fd, path)) return false
    const now = performance.now()
    if (now - guarded.loggedAt < LOG_MS) return true
    guarded.loggedAt = now
    this.#logger.warn(
      { listener: guarded.name, path },
      'the path of a listener was removed: this process has restored it',
    )
    return true
  }

  #disconnected(fd: OwnedFd, guarded: Guarded): void {
    if (inspectOne(fd).accepting === false) this.#listenAgain(fd, guarded)
    else {
      // The kernel reports it again and again, and refuses clients of a Unix socket that was shut down until it is closed.
      this.#unwatch(guarded)
      guarded.isEnded = true
      this.#report(
        guarded,
        'a process that shares the socket has shut it down, and a Unix socket cannot listen again: end that program’s use of shutdown(2), and upgrade',
      )
    }
  }

  #listenAgain(fd: OwnedFd, guarded: Guarded): void {
    const { address, name, spec } = guarded
    const now = performance.now()
    // A program that shuts the socket down again and again must not keep this process busy: the next check mends it.
    if (now - guarded.mendedAt < PATH_CHECK_MS / 2) {
      guarded.poll?.stop()
      return
    }
    guarded.mendedAt = now
    try {
      listen(fd, spec?.backlog ?? BACKLOG)
      guarded.poll?.start(DISCONNECT)
      const bound = formatAddress(inspectOne(fd))
      if (bound !== address)
        throw new Error(`the kernel chose another port, ${bound}, because the listener has port 0`)
    } catch (error) {
      this.#unwatch(guarded)
      this.#report(guarded, `it was shut down, and cannot listen again: ${(error as Error).message}`)
      return
    }
    guarded.fault = guarded.seen = null
    if (now - guarded.loggedAt < LOG_MS) return
    guarded.loggedAt = now
    this.#logger.warn(
      { listener: name, address },
      'a process that shares a listener has shut it down for all; this process listens again',
    )
  }

  #checkPath(fd: OwnedFd, path: string, guarded: Guarded): string | null {
    if (this.keepsPaths ? this.#leadsTo(fd, path, guarded) : namesSocket(fd, path) !== false) {
      if (this.keepsPaths) keepPath(fd, path)
      return null
    }
    return existsSync(path)
      ? `${path} belongs to another program now: end that program, then restart the service`
      : `${path} was removed and cannot be restored: restart the service to bind it again`
  }

  #found(guarded: Guarded, fault: string | null): void {
    const again = fault !== null && guarded.seen === fault
    guarded.seen = fault
    if (fault === null) guarded.fault = null
    else if (again) this.#report(guarded, fault)
  }

  #report(guarded: Guarded, fault: string): void {
    if (guarded.fault === fault) return
    guarded.fault = fault
    const { address, name } = guarded
    this.#logger.error({ listener: name, address, why: fault }, 'clients cannot reach a listener')
  }

  #unwatch(guarded: Guarded): void {
    guarded.poll?.close()
    guarded.poll = null
  }
}
