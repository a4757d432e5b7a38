import { FdbError } from '../errors.js'
import { closeAll, type Inspected, inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { formatAddress, type ListenerSpec } from '../listeners/index.js'
import type { OperatorClient } from '../operator/client.js'
import type { StoredDescriptors } from '../operator/held-descriptors.js'
import { NONE_PASSED } from '../os/service-manager/service-manager.js'
import { portOf } from './child-environment.js'
import { heldOrBound, refuseOther } from './held-listeners.js'

/** What a program wants of a daemon. */
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
  const claimed: ClaimedDescriptor[] = []
  try {
    for (const { name, spec } of wanted) {
      const held = nameIn(service, name)
      const options = { shared: !exclusive, while: { pid: process.pid }, timeoutMs }
      const claim = () => client.descriptors.claimAmong(held, options)
      const { fd, others } =
        spec === null ? await known(held, claim) : await heldOrBound(client, held, spec, claim)
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

/** How a program is told of them, and behind them of what was given away, as systemd and as Server::Starter do it. The first is descriptor 3. */
export function claimedVariables(
  claimed: readonly ClaimedDescriptor[],
  store: StoredDescriptors | null,
): NodeJS.ProcessEnv {
  const names = [...claimed.map(({ name }) => name), ...(store?.names ?? [])]
  const ports = claimed.flatMap(({ about }, index) =>
    about.type === 'socket' ? [`${portOf(formatAddress(about))}=${3 + index}`] : [],
  )
  return {
    ...NONE_PASSED,
    LISTEN_FDS: `${names.length}`,
    LISTEN_PID: `${process.pid}`,
    LISTEN_FDNAMES: names.join(':'),
    SERVER_STARTER_PORT: ports.length === 0 ? undefined : ports.join(';'),
    SERVER_STARTER_GENERATION: undefined,
    ...(store !== null && { NOTIFY_SOCKET: store.notifySocket, FDSTORE: `${store.most}` }),
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
