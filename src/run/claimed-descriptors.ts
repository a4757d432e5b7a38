import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { closeAll, type Inspected, inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import {
  bindListener,
  formatAddress,
  formatListenerSpec,
  isLocatedAt,
  isOfKind,
  type ListenerSpec,
} from '../listeners/index.js'
import type { OperatorClient } from '../operator/client.js'
import type { ClaimResult } from '../operator/held-descriptors.js'
import { FIRST_FD, passedSockets } from '../os/service-manager/passed-sockets.js'
import { NO_PASSED_SOCKETS } from '../os/service-manager/service-manager.js'
import type { VersionSettings } from './settings.js'
import { portOf } from './shared-listeners.js'

/** Limit of the wait for a process that has bound a listener, and stores it in the daemon next. */
const STORING_MS = 500
const STORING_RETRY_MS = 20

/** A descriptor that a program wants from a daemon. */
export interface WantedDescriptor {
  /** The name in the program. */
  readonly name: string
  /** The listener to bind if the daemon holds nothing under the name. If null, the daemon must hold a descriptor, of any kind. */
  readonly spec: ListenerSpec | null
}

export interface ClaimingOptions {
  /** Service in the daemon's names, `SERVICE/NAME`. If undefined, the daemon uses the program's names without `SERVICE/`. */
  readonly service: string | undefined
  readonly exclusive: boolean
  readonly nonBlocking: boolean
  readonly timeoutMs: number
}

/** A descriptor that this process has claimed until it ends. */
export interface ClaimedDescriptor {
  readonly name: string
  readonly fd: OwnedFd
  readonly about: Inspected
}

/**
 * Claims descriptors of a daemon until this process ends, also after an exec. Binds listeners that the daemon does not hold, and stores
 * them in it. The caller owns the descriptors. Rejects with ERR_FDB_FD_UNKNOWN, with ERR_FDB_FD_TAKEN if the daemon holds a name for another
 * address, with the errors of bind, and with those of {@link OperatorClient}; then all descriptors are closed.
 */
export async function claimForLife(
  client: OperatorClient,
  wanted: readonly WantedDescriptor[],
  { service, exclusive, nonBlocking, timeoutMs }: ClaimingOptions,
): Promise<ClaimedDescriptor[]> {
  const options = { shared: !exclusive, while: { pid: process.pid }, timeout: timeoutMs }
  const claim = (held: string) => client.descriptors.claimAmong(held, options)
  const named = wanted.map(each => ({ ...each, held: nameInDaemon(service, each.name) }))
  return await claimAll(client, named, nonBlocking, claim)
}

/** `held` is the name in the daemon. The caller owns the descriptors; if one fails, all are closed. */
async function claimAll(
  client: OperatorClient,
  wanted: readonly (WantedDescriptor & { readonly held: string })[],
  nonBlocking: boolean,
  claim: (held: string) => Promise<ClaimResult>,
): Promise<ClaimedDescriptor[]> {
  const claimed: ClaimedDescriptor[] = []
  try {
    for (const { name, held, spec } of wanted) {
      const claimOnce = () => claim(held)
      const { fd, others } = await (spec === null
        ? claimKnown(held, claimOnce)
        : heldOrBound(client, held, spec, claimOnce))
      const about = inspectOne(fd)
      claimed.push({ name, fd, about })
      if (spec !== null) refuseMismatch(held, spec, about)
      // O_NONBLOCK applies to all processes that share a socket: it is not changed while another process uses the socket.
      if (about.type === 'socket' && others === 0) setBlocking(fd, !nonBlocking)
    }
    return claimed
  } catch (error) {
    closeAll(claimed.map(({ fd }) => fd))
    throw error
  }
}

function nameInDaemon(service: string | undefined, name: string): string {
  return service === undefined ? name : `${service}/${name}`
}

/** Returns variables that announce descriptors as systemd and Server::Starter do. The first descriptor has number 3. */
export function claimedVariables(claimed: readonly ClaimedDescriptor[]): NodeJS.ProcessEnv {
  const ports = claimed.flatMap(({ about }, index) =>
    about.type === 'socket' ? [`${portOf(formatAddress(about))}=${FIRST_FD + index}`] : [],
  )
  return {
    ...NO_PASSED_SOCKETS,
    LISTEN_FDS: `${claimed.length}`,
    LISTEN_PID: `${process.pid}`,
    LISTEN_FDNAMES: claimed.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: ports.length === 0 ? undefined : ports.join(';'),
    SERVER_STARTER_GENERATION: undefined,
  }
}

async function claimKnown<T>(name: string, claim: () => Promise<T>): Promise<T> {
  try {
    return await claim()
  } catch (cause) {
    if (!FdbError.is(cause) || cause.code !== 'ERR_FDB_FD_UNKNOWN') throw cause
    const why = `the daemon holds nothing under the name "${name}": give an address to bind it (NAME=tcp://0.0.0.0:8080), or list the names (fd-broker fd list)`
    throw new FdbError('ERR_FDB_FD_UNKNOWN', why, { cause })
  }
}

/**
 * Claims listeners of a daemon by name until this process ends, and offers them to {@link passedSockets}. Binds listeners that the daemon
 * does not hold, and stores them in it. Rejects with ERR_FDB_FD_TAKEN if the daemon holds a name for another address, with bind errors, and
 * as {@link OperatorClient} does.
 */
export async function takeHeld(
  client: OperatorClient,
  { listen, nonBlocking }: Pick<VersionSettings, 'listen' | 'nonBlocking'>,
): Promise<{ listener: string; address: string }[]> {
  const named = listen.map(each => ({ ...each, held: each.name }))
  const taken = await claimAll(client, named, nonBlocking, name => claimShared(client, name))
  passedSockets().offer(taken, false)
  return taken.map(({ name, about }) => ({ listener: name, address: formatAddress(about) }))
}

/** Claims until this process ends. Without pidfds the daemon gives a duplicate, and records no claim. */
async function claimShared(client: OperatorClient, name: string): Promise<ClaimResult> {
  try {
    return await client.descriptors.claimAmong(name, { shared: true, while: { pid: process.pid } })
  } catch (error) {
    if (!hasCode(error, 'ERR_FDB_OPTION') && !hasCode(error, 'ERR_FDB_NO_PIDFD')) throw error
    return await client.descriptors.claimAmong(name, { shared: true })
  }
}

/**
 * Claims a listener that this process has until this process ends. Returns whether the daemon did not hold it, and has got it. Rejects with
 * ERR_FDB_FD_TAKEN if the daemon holds another descriptor under the name, and as {@link OperatorClient} does. Borrows the descriptor.
 */
export async function holdAgain(client: OperatorClient, name: string, fd: OwnedFd): Promise<boolean> {
  let stored = false
  const claimed = await heldOrStored(
    () => claimShared(client, name),
    async () => {
      await client.descriptors.put(name, fd)
      stored = true
    },
  )
  using there = claimed.fd
  if (inspectOne(there).ino === inspectOne(fd).ino) return stored
  const why = `the daemon holds another descriptor as "${name}": remove that one (fd-broker fd remove ${name})`
  throw new FdbError('ERR_FDB_FD_TAKEN', why, { details: { name } })
}

/** Claims a listener; if the daemon does not hold it, binds and stores it first. */
async function heldOrBound<T>(
  client: OperatorClient,
  name: string,
  spec: ListenerSpec,
  claim: () => Promise<T>,
): Promise<T> {
  return await heldOrStored(claim, async () => {
    using fd = bindListener(spec)
    await client.descriptors.put(name, fd)
  })
}

/** Claims a descriptor; if the daemon does not hold it, stores it first. Two processes that do so at once get the same descriptor. */
async function heldOrStored<T>(claim: () => Promise<T>, store: () => Promise<void>): Promise<T> {
  try {
    return await claim()
  } catch (error) {
    if (!hasCode(error, 'ERR_FDB_FD_UNKNOWN')) throw error
  }
  try {
    await store()
  } catch (error) {
    if (!hasCode(error, 'ERR_FDB_FD_TAKEN') && !hasCode(error, 'ERR_FDB_ADDRESS_IN_USE')) throw error
    return await claimSoon(claim, error)
  }
  return await claim()
}

/** Claims a descriptor that another process may be about to store. Rejects with `error` if the daemon does not get it in time. */
async function claimSoon<T>(claim: () => Promise<T>, error: unknown): Promise<T> {
  const until = performance.now() + STORING_MS
  for (;;) {
    try {
      return await claim()
    } catch (late) {
      if (!hasCode(late, 'ERR_FDB_FD_UNKNOWN')) throw late
      if (performance.now() >= until) throw error
    }
    await sleep(STORING_RETRY_MS)
  }
}

function hasCode(error: unknown, code: FdbErrorCode): boolean {
  return FdbError.is(error) && error.code === code
}

/** Throws ERR_FDB_FD_TAKEN if the held descriptor does not match the specification. */
function refuseMismatch(name: string, spec: ListenerSpec, about: Inspected): void {
  if (isOfKind(about, spec) && (isLocatedAt(about, spec) || (spec.kind !== 'unix' && spec.port === 0))) return
  const there = about.type === 'socket' ? formatAddress(about) : about.type
  const why = `the daemon holds "${name}" for something else (${there}, not ${formatListenerSpec(spec)}): give the listener another name, or remove the one that the daemon holds (fd-broker fd remove ${name})`
  throw new FdbError('ERR_FDB_FD_TAKEN', why, { details: { name } })
}
