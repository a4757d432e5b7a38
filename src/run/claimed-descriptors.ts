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
import type { Claimed } from '../operator/held-descriptors.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import { NONE_PASSED } from '../os/service-manager/service-manager.js'
import type { VersionSettings } from './settings.js'
import { portOf } from './shared-listeners.js'

/** A program's request to a daemon. */
export interface WantedDescriptor {
  /** As the program knows it. */
  readonly name: string
  /** Null: it is held, whatever it is. */
  readonly spec: ListenerSpec | null
}

export interface ClaimingOptions {
  /** The daemon knows them as `SERVICE/NAME`; undefined: by their names alone. */
  readonly service: string | undefined
  readonly exclusive: boolean
  readonly nonBlocking: boolean
  readonly timeoutMs: number
}

/** One that this process has claimed for as long as it lives. Owned. */
export interface ClaimedDescriptor {
  readonly name: string
  readonly fd: OwnedFd
  readonly about: Inspected
}

/**
 * Claims descriptors of a daemon for as long as this process lives, whatever program it goes on as. A listener that is not held is bound, and
 * held there from now on. All or none are owned by the caller. Rejects as {@link heldOrBound} does, with ERR_FDB_FD_TAKEN where a name is
 * held for something else.
 */
export async function claimForLife(
  client: OperatorClient,
  wanted: readonly WantedDescriptor[],
  { service, exclusive, nonBlocking, timeoutMs }: ClaimingOptions,
): Promise<ClaimedDescriptor[]> {
  const options = { shared: !exclusive, while: { pid: process.pid }, timeout: timeoutMs }
  const claim = (held: string) => client.descriptors.claimAmong(held, options)
  const named = wanted.map(each => ({ ...each, held: nameIn(service, each.name) }))
  return await claimAll(client, named, nonBlocking, claim)
}

/** `held`: the daemon's name of each. All or none are owned by the caller. */
async function claimAll(
  client: OperatorClient,
  wanted: readonly (WantedDescriptor & { readonly held: string })[],
  nonBlocking: boolean,
  claim: (held: string) => Promise<Claimed>,
): Promise<ClaimedDescriptor[]> {
  const claimed: ClaimedDescriptor[] = []
  try {
    for (const { name, held, spec } of wanted) {
      const once = () => claim(held)
      const { fd, others } = await (spec === null ? known(held, once) : heldOrBound(client, held, spec, once))
      const about = inspectOne(fd)
      claimed.push({ name, fd, about })
      if (spec !== null) refuseOther(held, spec, about)
      // It is one of the open socket: who runs on it already goes on with what he has.
      if (about.type === 'socket' && others === 0) setBlocking(fd, !nonBlocking)
    }
    return claimed
  } catch (error) {
    closeAll(claimed.map(({ fd }) => fd))
    throw error
  }
}

/** By which a daemon holds what a program of this service calls so. */
export function nameIn(service: string | undefined, name: string): string {
  return service === undefined ? name : `${service}/${name}`
}

/** How a program is told of them, as systemd and as Server::Starter do it. The first is descriptor 3. */
export function claimedVariables(claimed: readonly ClaimedDescriptor[]): NodeJS.ProcessEnv {
  const ports = claimed.flatMap(({ about }, index) =>
    about.type === 'socket' ? [`${portOf(formatAddress(about))}=${3 + index}`] : [],
  )
  return {
    ...NONE_PASSED,
    LISTEN_FDS: `${claimed.length}`,
    LISTEN_PID: `${process.pid}`,
    LISTEN_FDNAMES: claimed.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: ports.length === 0 ? undefined : ports.join(';'),
    SERVER_STARTER_GENERATION: undefined,
  }
}

async function known<T>(name: string, claim: () => Promise<T>): Promise<T> {
  try {
    return await claim()
  } catch (cause) {
    if (!FdbError.is(cause) || cause.code !== 'ERR_FDB_FD_UNKNOWN') throw cause
    const why = `the daemon holds nothing under the name "${name}": say where it is to be bound (NAME=tcp://0.0.0.0:8080), or see which there are (fd-broker fd list)`
    throw new FdbError('ERR_FDB_FD_UNKNOWN', why, { cause })
  }
}

/**
 * Has listeners found that a daemon holds under their names, in the place of binding them; what it does not hold is bound, and held
 * there from now on: they outlive this process, which has claimed them as long as it lives. Resolves with what it has. Rejects with ERR_FDB_FD_TAKEN where a name is held
 * for something else, with what binding throws, and as {@link OperatorClient} does.
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

/** Without pidfds the daemon is not told which process has it. */
async function claimShared(client: OperatorClient, name: string): Promise<Claimed> {
  try {
    return await client.descriptors.claimAmong(name, { shared: true, while: { pid: process.pid } })
  } catch (error) {
    if (!isCode(error, 'ERR_FDB_OPTION') && !isCode(error, 'ERR_FDB_NO_PIDFD')) throw error
    return await client.descriptors.claimAmong(name, { shared: true })
  }
}

/** Returns the result of `claim`; binds and puts the descriptor first if it is not held. Two processes that race get the same one. */
export async function heldOrBound<T>(
  client: OperatorClient,
  name: string,
  spec: ListenerSpec,
  claim: () => Promise<T>,
): Promise<T> {
  try {
    return await claim()
  } catch (error) {
    if (!isCode(error, 'ERR_FDB_FD_UNKNOWN')) throw error
  }
  try {
    using fd = bindListener(spec)
    await client.descriptors.put(name, fd)
  } catch (error) {
    if (!isCode(error, 'ERR_FDB_FD_TAKEN') && !isCode(error, 'ERR_FDB_ADDRESS_IN_USE')) throw error
    return await claim().catch(late => {
      throw isCode(late, 'ERR_FDB_FD_UNKNOWN') ? error : late
    })
  }
  return await claim()
}

function isCode(error: unknown, code: FdbErrorCode): boolean {
  return FdbError.is(error) && error.code === code
}

/** Throws ERR_FDB_FD_TAKEN where what is held is none for this specification. */
export function refuseOther(name: string, spec: ListenerSpec, about: Inspected): void {
  if (isOfKind(about, spec) && (isLocatedAt(about, spec) || (spec.kind !== 'unix' && spec.port === 0))) return
  const there = about.type === 'socket' ? formatAddress(about) : about.type
  const why = `the daemon holds "${name}" for something else (${there}, not ${formatListenerSpec(spec)}): give the listener another name, or remove that (fd-broker fd remove ${name})`
  throw new FdbError('ERR_FDB_FD_TAKEN', why, { details: { name } })
}
