import { FdbError } from '../errors.js'
import {
  type BindOptions,
  bindSocket,
  listen,
  type NativeError,
  type OwnedFd,
  setSocketOption,
} from '../kernel/index.js'
import { findOccupant, type Occupant } from './occupant.js'
import { formatListenerSpec, type ListenerSpec } from './spec.js'
import { isErrno, type NoSocket, type Occupied, replaceStale } from './unix-path.js'

/**
 * Binds the address of the specification, and listens on it unless it is udp. The socket is non-blocking and CLOEXEC. A Unix path gets its mode and
 * owner before any client can connect; closing the descriptor does not remove it.
 *
 * Replaces a Unix path on which no process listens any more. Throws ERR_FDB_ADDRESS_IN_USE (with the process that holds the address, if it can be
 * found), ERR_FDB_BIND_DENIED, ERR_FDB_SPEC (the path is not a socket) or ERR_FDB_BIND.
 */
export function bindListener(spec: ListenerSpec): OwnedFd {
  const options = bindOptions(spec)
  const label = formatListenerSpec(spec)
  try {
    return bindSocket(options, label)
  } catch (error) {
    if (spec.kind === 'unix' && !spec.abstract && isErrno(error, 'EADDRINUSE'))
      return bindStale(spec, () => bindSocket(options, label), error)
    throw bindFailure(spec, error)
  }
}

function bindStale(spec: ListenerSpec, bind: () => OwnedFd, cause: unknown): OwnedFd {
  const { path } = spec
  let found: OwnedFd | Occupied | NoSocket
  try {
    found = replaceStale(path, bind)
  } catch (error) {
    throw bindFailure(spec, error)
  }
  if ('occupant' in found) throw addressInUse(spec, found.occupant ?? findOccupant(spec), cause)
  if ('noSocket' in found) {
    throw new FdbError(
      'ERR_FDB_SPEC',
      `The path ${path} exists and is not a socket. Move it away or choose another path.`,
      { cause, details: { part: 'path', path } },
    )
  }
  return found
}

/**
 * Binds the first of several sockets that share a TCP address (`reusePort`). Throws if another program has bound the address, even if that
 * program used `reusePort`.
 */
export function bindFirstOfGroup(spec: ListenerSpec): OwnedFd {
  const { backlog, ...options } = bindOptions({ ...spec, reusePort: false })
  let fd: OwnedFd
  try {
    fd = bindSocket(options, formatListenerSpec(spec))
  } catch (error) {
    throw bindFailure(spec, error)
  }
  try {
    setSocketOption(fd, 'reusePort', true)
    if (backlog !== undefined) listen(fd, backlog)
    return fd
  } catch (error) {
    fd.close()
    // Another process has bound the address between our bind and listen.
    throw bindFailure(spec, error)
  }
}

function bindOptions(spec: ListenerSpec): BindOptions {
  const backlog = spec.kind === 'udp' ? {} : { backlog: spec.backlog }
  if (spec.kind !== 'unix') {
    const { kind, host, port, reuseAddr, reusePort, ipv6Only } = spec
    return { kind, host, port, reuseAddr, reusePort, ipv6Only, ...backlog }
  }
  return {
    kind: 'unix',
    host: spec.path,
    abstract: spec.abstract,
    ...backlog,
    ...(spec.mode === undefined ? {} : { mode: spec.mode }),
    ...(spec.uid === undefined ? {} : { uid: spec.uid }),
    ...(spec.gid === undefined ? {} : { gid: spec.gid }),
  }
}

function bindFailure(spec: ListenerSpec, error: unknown): FdbError {
  return isErrno(error, 'EADDRINUSE') ? addressInUse(spec, findOccupant(spec), error) : bindError(spec, error)
}

function addressInUse(spec: ListenerSpec, occupant: Occupant | null, cause: unknown): FdbError {
  const address = formatListenerSpec(spec)
  const holder =
    occupant === null
      ? 'an unknown process (of another user, or in another namespace)'
      : `process ${occupant.pid} (${occupant.command || 'command unknown'})`
  const control = occupant?.control ? `, whose control socket is ${occupant.control}` : ''
  const remedy =
    occupant?.pid === process.pid
      ? 'That is this process: use that listener'
      : control === ''
        ? 'End it, take the socket over from it'
        : 'Join it there to take the address over'
  return new FdbError(
    'ERR_FDB_ADDRESS_IN_USE',
    `${address} is held by ${holder}${control}. ${remedy}, or choose another${control === '' ? ' address' : ''}.`,
    {
      cause,
      retryable: true,
      details: {
        pid: occupant?.pid ?? null,
        command: occupant?.command ?? null,
        control: occupant?.control ?? null,
        address,
      },
    },
  )
}

function bindError(spec: ListenerSpec, cause: unknown): FdbError {
  const address = formatListenerSpec(spec)
  const { code = 'unknown', message = String(cause) } = cause as Partial<NativeError>
  const details = { address, errno: code }
  if (code === 'EACCES' || code === 'EPERM') {
    const remedy =
      spec.kind === 'unix'
        ? 'The folder must be writable for this user, and changing the owner needs CAP_CHOWN.'
        : `Ports below net.ipv4.ip_unprivileged_port_start (usually 1024; got ${spec.port}) need CAP_NET_BIND_SERVICE: ` +
          'AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit, setcap cap_net_bind_service=+ep on the node ' +
          'binary, or root.'
    return new FdbError('ERR_FDB_BIND_DENIED', `This user may not bind ${address} (${message}). ${remedy}`, {
      cause,
      details,
    })
  }
  const hints: Record<string, string> = {
    EADDRNOTAVAIL:
      'No interface of this machine has the address: use the address of an interface, or 0.0.0.0 or [::].',
    EAFNOSUPPORT:
      'This kernel does not support the address family (IPv6 may be disabled): use an IPv4 address.',
    ENOENT: 'Create its folder first.',
    ENOTDIR: 'A part of the path is not a folder.',
    EROFS: 'The file system is read-only.',
    EMFILE: 'This process has no free descriptor: raise its limit (ulimit -n, LimitNOFILE).',
  }
  return new FdbError(
    'ERR_FDB_BIND',
    `${address} cannot be bound (${message}). ${hints[code] ?? 'See the cause.'}`,
    {
      cause,
      details,
    },
  )
}
