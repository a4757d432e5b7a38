import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { inspectOne, type OwnedFd } from '../kernel/index.js'
import {
  bindFirstOf,
  bindListener,
  formatEndpoint,
  formatListenerSpec,
  type ListenerSpec,
  parseListenerSpec,
} from '../listeners/index.js'
import { OperatorClient } from '../operator/client.js'
import { GROUP_LISTENER } from '../operator/service-commands.js'
import type { WorkerPlace } from '../os/default-control.js'

/** The main process has it at hand. */
const ANSWER_MS = 10_000
const AGAIN_MS = 20

/**
 * The listeners of a worker. A TCP one is a socket of its own at an address that all workers share (SO_REUSEPORT): the kernel gives each of them
 * the same part of what comes. Sockets of other kinds are one for all: the first binds, the others are given it.
 */
export class GroupListeners {
  readonly #control: string

  constructor({ control }: WorkerPlace) {
    this.#control = control
  }

  /** What is asked for here, of what the application asked for. */
  wanted(spec: ListenerSpec): ListenerSpec {
    return spec.kind === 'tcp' ? { ...spec, reusePort: true } : spec
  }

  /**
   * Binds beside the others; `spec`: what it is registered with, as the path of a socket that is shared is the first one's. Throws what
   * binding throws, also where somebody else shares the address.
   */
  async bind(name: string, spec: ListenerSpec): Promise<{ fd: OwnedFd; spec: string }> {
    const others = await this.#askFor(name, spec)
    if (others !== null) return this.#beside(others, spec)
    try {
      const fd = spec.kind === 'tcp' ? bindFirstOf(spec) : bindListener(spec)
      return { fd, spec: formatListenerSpec(spec) }
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_ADDRESS_IN_USE') throw error
      // Another worker may have been first meanwhile.
      const first = await this.#askFor(name, spec)
      if (first === null) throw error
      return this.#beside(first, spec)
    }
  }

  /** Takes the other's. */
  #beside(other: OwnedFd, spec: ListenerSpec): { fd: OwnedFd; spec: string } {
    if (spec.kind !== 'tcp') return { fd: other, spec: '' }
    try {
      // The kernel has chosen one for the first.
      const { port = spec.port } = inspectOne(other)
      return { fd: bindListener({ ...spec, port }), spec: formatListenerSpec(spec) }
    } finally {
      other.close()
    }
  }

  /** That of another worker; null: none has it. The caller owns it. */
  async #askFor(name: string, spec: ListenerSpec): Promise<OwnedFd | null> {
    return await claimFrom(this.#control, groupKey(name, spec))
  }
}

/** What the main process has of that name; null: nothing. The caller owns it. */
export async function claimFrom(control: string, name: string): Promise<OwnedFd | null> {
  const until = performance.now() + ANSWER_MS
  for (;;) {
    using client = await OperatorClient.connect(control, { timeoutMs: ANSWER_MS })
    try {
      return await client.descriptors.claim(name, { shared: true, timeoutMs: ANSWER_MS })
    } catch (error) {
      if (FdbError.is(error) && error.code === 'ERR_FDB_FD_UNKNOWN') return null
      // It has just handed over to the next one.
      const again = FdbError.is(error) && error.code === 'ERR_FDB_CHANNEL_CLOSED'
      if (!again || performance.now() + AGAIN_MS > until) throw error
    }
    await new Promise(resolve => setTimeout(resolve, AGAIN_MS))
  }
}

/** By what a main process is asked for a listener of any of its workers: name and address, options aside. */
export function groupKey(name: string, { kind, host, path, port, abstract }: ListenerSpec): string {
  const where = formatEndpoint(kind, kind === 'unix' ? path : host, port, abstract)
  return `${GROUP_LISTENER}${nodeCrypto().createHash('sha256').update(`${name}\0${where}`).digest('hex').slice(0, 40)}`
}

/** The key of one that a worker has registered; null: it is another's, or no listener. */
export function groupKeyOf({
  name,
  role,
  spec,
}: {
  readonly name: string
  readonly role: string
  readonly spec: string
}): string | null {
  return role === 'listener' && spec !== '' ? groupKey(name, parseListenerSpec(spec)) : null
}
