import { FdbError } from '../errors.js'
import { closeAll, type Inspected, inspectOne, type OwnedFd, openFilesOf } from '../kernel/index.js'
import {
  commandOf,
  formatAddress,
  formatListenerSpec,
  isLocatedAt,
  isOfKind,
  type ListenerSpec,
} from '../listeners/index.js'
import { controlOf } from '../listeners/occupant.js'
import { ancestryOf } from './main-process.js'
import type { OtherProcess } from './other-process.js'

/** A socket of another process, on which it listens or receives datagrams. */
export interface ForeignListener {
  /** A duplicate, owned by the caller. */
  readonly fd: OwnedFd
  readonly about: Inspected
  /** The descriptor's number in the other process. */
  readonly number: number
}

export interface NamedListener {
  readonly name: string
  readonly spec: ListenerSpec
}

export interface AdoptedListener extends NamedListener, Pick<ForeignListener, 'fd' | 'about'> {}

/**
 * Returns the listening stream sockets of a process, and its udp sockets with a port, each once, of any network namespace. The process
 * keeps them and notices nothing. Both processes share the sockets: setting O_NONBLOCK or a socket option affects both. Throws
 * ERR_FDB_TRACE.
 */
export function listenersOf(process: OtherProcess): ForeignListener[] {
  const found = new Map<string, ForeignListener>()
  try {
    for (const [number, leads] of process.descriptors()) {
      if (!leads.startsWith('socket:') || found.has(leads)) continue
      const fd = process.takeIfThere(number, `${leads} of process ${process.pid}`)
      if (fd === null) continue
      const about = inspectOne(fd)
      const listens = (['tcp', 'udp', 'unix'] as const).some(kind => isOfKind(about, { kind }))
      if (listens && (about.socketType === 'stream' || about.port !== 0))
        found.set(leads, { fd, about, number })
      else fd.close()
    }
  } catch (error) {
    closeAll([...found.values()].map(({ fd }) => fd))
    throw error
  }
  return [...found.values()]
}

/**
 * Duplicates the wanted listeners of a process, and skips addresses at which the process does not listen. The returned specifications have
 * the sockets' options. The caller owns the descriptors.
 *
 * Throws ERR_FDB_TRACE. Throws ERR_FDB_ADOPT if the process has none of the listeners, has several sockets at one address, uses fd-broker
 * itself, or is a version or worker of a process that does.
 */
export function adoptListeners(process: OtherProcess, wanted: readonly NamedListener[]): AdoptedListener[] {
  const control = controlOf(process.pid)
  if (control !== null)
    throw adoptError(process, `speaks fd-broker: upgrade it through its control socket, ${control}`)
  const all = listenersOf(process)
  const adopted: AdoptedListener[] = []
  try {
    const manager = managerOf(process, all)
    if (manager !== null)
      throw adoptError(
        process,
        `is a version or worker of process ${manager.pid}: upgrade it through the control socket ${manager.control}`,
      )
    for (const { name, spec } of wanted) {
      const there = all.filter(({ about }) => isOfKind(about, spec) && isLocatedAt(about, spec))
      if (there.length > 1)
        throw adoptError(
          process,
          `has ${there.length} sockets at ${formatListenerSpec(spec)} (SO_REUSEPORT): connections that the kernel assigns to the others would be lost`,
        )
      for (const { fd, about } of there) adopted.push({ name, spec: asBound(spec, about), fd, about })
    }
    if (adopted.length > 0) return adopted
    const places = all.map(({ about }) => formatAddress(about)).join(', ') || 'nowhere'
    if (wanted.length === 0)
      throw adoptError(process, `listens at ${places}: name one or more of them with NAME=ADDRESS`)
    throw adoptError(
      process,
      `does not listen at ${wanted.map(({ spec }) => formatListenerSpec(spec)).join(', ')}: it listens at ${places}`,
    )
  } catch (error) {
    adopted.length = 0
    throw error
  } finally {
    const taken = new Set(adopted.map(({ fd }) => fd))
    closeAll(all.flatMap(({ fd }) => (taken.has(fd) ? [] : [fd])))
  }
}

/** Finds an ancestor that has a control socket and one of the listeners: `fd-broker run`, or the main process of workers. */
function managerOf(
  process: OtherProcess,
  listeners: readonly ForeignListener[],
): { readonly pid: number; readonly control: string } | null {
  const sockets = new Set(listeners.map(({ about }) => `socket:[${about.ino}]`))
  for (const pid of ancestryOf(process.pid)) {
    const has = [...(openFilesOf(pid) ?? [])].some(([, file]) => sockets.has(file))
    const control = has ? controlOf(pid) : null
    if (control !== null) return { pid, control }
  }
  return null
}

/** Returns the specification with the socket's options, which must not change, because the other process shares the socket. */
function asBound(spec: ListenerSpec, { reuseAddr, reusePort, ipv6Only, family }: Inspected): ListenerSpec {
  if (spec.kind === 'unix') return spec
  return {
    ...spec,
    reuseAddr: reuseAddr ?? spec.reuseAddr,
    reusePort: reusePort ?? spec.reusePort,
    ipv6Only: family === 'inet6' && spec.host.includes(':') ? (ipv6Only ?? spec.ipv6Only) : spec.ipv6Only,
  }
}

function adoptError({ pid }: OtherProcess, why: string): FdbError {
  return new FdbError('ERR_FDB_ADOPT', `process ${pid} (${commandOf(pid) || 'command unknown'}) ${why}`, {
    details: { pid },
  })
}
