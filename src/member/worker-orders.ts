import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import type { Entry } from '../holder/registry.js'
import { inspectOne, type OwnedFd } from '../kernel/index.js'
import {
  addressOf,
  bindFirstOfGroup,
  bindListener,
  formatListenerSpec,
  type ListenerSpec,
  parseListenerSpec,
} from '../listeners/index.js'
import { OperatorClient } from '../operator/client.js'
import { GROUP_LISTENER, STAND_IN, YIELD } from '../operator/service-commands.js'
import type { WorkerPlace } from '../os/default-control.js'
import type { Commands } from './commands.js'
import type { Listener } from './listener.js'

/** A listener of a worker that was not replaced. */
export interface UnservedListener {
  readonly name: string
  /** By which the main process is asked for it. */
  readonly key: string
}

interface Employed {
  readonly commands: Commands
  readonly worker: WorkerPlace
  listeners(): readonly Listener[]
  /** Leaves; what it has goes on in another worker. */
  close(): Promise<void>
}

/**
 * Obeys a main process. Takes the connections of workers that are not there: their main process says which listeners are, all of them each time. They end with this
 * process's turn, or when one that takes that place has come.
 */
export function serveMainProcess({ close, commands, listeners, worker: { control } }: Employed): void {
  let turn: Promise<unknown> = Promise.resolve()
  const follow = async (unserved: readonly UnservedListener[]) => {
    for (const listener of listeners()) {
      const wanted = unserved.filter(({ name }) => name === listener.name)
      listener.keepStandIns(new Set(wanted.map(({ key }) => key)))
      for (const { key } of wanted) {
        if (listener.standIns.has(key)) continue
        const fd = await claimFrom(control, key)
        if (fd !== null) listener.standIn(key, fd)
      }
    }
  }
  commands.set(STAND_IN, async body => {
    const unserved = unservedIn(body)
    turn = turn.then(() => follow(unserved))
    const done = turn
    turn = turn.catch(() => {})
    await done
    return ''
  })
  commands.set(YIELD, () => {
    // The answer leaves first.
    setImmediate(() => void close())
    return ''
  })
}

export function standInBody(unserved: readonly UnservedListener[]): string {
  return JSON.stringify(unserved)
}

/** Throws ERR_FDB_MESSAGE. */
function unservedIn(body: Buffer): UnservedListener[] {
  try {
    const list: unknown = JSON.parse(body.toString())
    if (Array.isArray(list)) return list.map(({ name, key }) => ({ name: String(name), key: String(key) }))
  } catch {
    // The error follows below.
  }
  throw new FdbError('ERR_FDB_MESSAGE', `${body.length} bytes of a main process's order are no list`)
}

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

  /** The specification to bind, for the one that the application asked for. */
  wanted(spec: ListenerSpec): ListenerSpec {
    return spec.kind === 'tcp' ? { ...spec, reusePort: true } : spec
  }

  /**
   * Binds beside the other workers; `spec`: the one to register, as a shared socket has the path of the first. Throws what binding throws,
   * also if another program shares the address.
   */
  async bind(name: string, spec: ListenerSpec): Promise<{ fd: OwnedFd; spec: string }> {
    const others = await this.#askFor(name, spec)
    if (others !== null) return this.#beside(others, spec)
    try {
      const fd = spec.kind === 'tcp' ? bindFirstOfGroup(spec) : bindListener(spec)
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

/** The main process's descriptor of that name; null: none. The caller owns it. */
async function claimFrom(control: string, name: string): Promise<OwnedFd | null> {
  const until = performance.now() + ANSWER_MS
  for (;;) {
    using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
    try {
      return await client.descriptors.claim(name, { shared: true, timeout: ANSWER_MS })
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
function groupKey(name: string, spec: ListenerSpec): string {
  return `${GROUP_LISTENER}${nodeCrypto()
    .createHash('sha256')
    .update(`${name}\0${addressOf(spec)}`)
    .digest('hex')
    .slice(0, 40)}`
}

/** The key of one that a worker has registered; null: it is another's, or no listener. */
export function groupKeyOf({ name, role, spec }: Entry): string | null {
  return role === 'listener' && spec !== '' ? groupKey(name, parseListenerSpec(spec)) : null
}
