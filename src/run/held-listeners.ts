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
import type { VersionSettings } from './settings.js'

/**
 * Has listeners found that a daemon holds under their names, in the place of binding them; what it does not hold is bound, and held
 * there from now on: they outlive this process, which has claimed them as long as it lives. Resolves with what it has. Rejects with ERR_FDB_FD_TAKEN where a name is held
 * for something else, with what binding throws, and as {@link OperatorClient} does.
 */
export async function takeHeld(
  client: OperatorClient,
  { listen, nonBlocking }: Pick<VersionSettings, 'listen' | 'nonBlocking'>,
): Promise<{ listener: string; address: string }[]> {
  const taken: { name: string; fd: OwnedFd; about: Inspected }[] = []
  try {
    for (const { name, spec } of listen) {
      const { fd, others } = await heldOrBound(client, name, spec, () => claimForLife(client, name))
      const about = inspectOne(fd)
      taken.push({ name, fd, about })
      refuseOther(name, spec, about)
      // It is one of the open socket: who runs on it already goes on with what he has.
      if (others === 0) setBlocking(fd, !nonBlocking)
    }
    passedSockets().offer(taken, false)
    return taken.map(({ name, about }) => ({ listener: name, address: formatAddress(about) }))
  } catch (error) {
    closeAll(taken.map(({ fd }) => fd))
    throw error
  }
}

/** Where there are no pidfds nobody is told who has it. */
async function claimForLife(client: OperatorClient, name: string): Promise<Claimed> {
  try {
    return await client.descriptors.claimAmong(name, { shared: true, while: { pid: process.pid } })
  } catch (error) {
    if (!isCode(error, 'ERR_FDB_OPTION') && !isCode(error, 'ERR_FDB_NO_PIDFD')) throw error
    return await client.descriptors.claimAmong(name, { shared: true })
  }
}

/** What `claim` gets; it is bound and put first where it is not held. Two who do so at once both have what the first has bound. */
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
