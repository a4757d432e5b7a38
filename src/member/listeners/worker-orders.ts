import { InOrder } from '../../base/in-order.js'
import { jsonValue } from '../../base/json.js'
import { nodeCrypto } from '../../base/lazy.js'
import { FdbError } from '../../errors.js'
import type { Entry } from '../../holder/entry.js'
import { inspectOne, type OwnedFd } from '../../kernel/index.js'
import { addressOf, bindFirstOfGroup, bindListener, type ListenerSpec } from '../../listeners/index.js'
import { OperatorClient } from '../../operator/client.js'
import type { CommandHandler } from '../../operator/requests.js'
import { GROUP_LISTENER, STAND_IN, YIELD } from '../../operator/service-commands.js'
import type { WorkerPlace } from '../../os/default-control.js'
import type { Listener } from './listener.js'

/** A listener of a worker that has ended and is not replaced yet. */
export interface UnservedListener {
  readonly name: string
  /** The name of the descriptor in the main process. */
  readonly key: string
}

interface WorkerCommandsDeps {
  readonly commands: { set(name: string, handler: CommandHandler): void }
  readonly worker: WorkerPlace
  readonly listeners: {
    readonly all: readonly Listener[]
    /** Keeps the listener of an ended worker for good. */
    keepStandIn(listener: Listener, key: string): Promise<void>
  }
  /** Leaves the service. The connections move to another worker. */
  close(): Promise<void>
}

/**
 * Handles the commands of the main process. STAND_IN lists all listeners of missing workers: this worker accepts on those, and stops on
 * those that are not listed any more. A listener that the main process does not know stays: the previous main process has died, and no other
 * process has that listener. YIELD makes this worker leave.
 */
export function serveMainProcess({
  close,
  commands,
  listeners,
  worker: { control },
}: WorkerCommandsDeps): void {
  const order = new InOrder()
  const follow = async (unserved: readonly UnservedListener[]) => {
    for (const listener of listeners.all) {
      const wanted = unserved.filter(({ name }) => name === listener.name)
      const keys = new Set(wanted.map(({ key }) => key))
      for (const key of listener.standIns.keys())
        if (!keys.has(key) && !(await isKnown(control, key))) await listeners.keepStandIn(listener, key)
      listener.keepStandIns(keys)
      for (const { key } of wanted) {
        if (listener.standIns.has(key)) continue
        const fd = await claimFrom(control, key)
        if (fd !== null) listener.standIn(key, fd)
      }
    }
  }
  commands.set(STAND_IN, async body => {
    const unserved = unservedIn(body)
    await order.run(() => follow(unserved))
    return ''
  })
  commands.set(YIELD, () => {
    // Later, because the reply must be sent before the channel ends.
    setImmediate(() => void close())
    return ''
  })
}

export function standInBody(unserved: readonly UnservedListener[]): string {
  return JSON.stringify(unserved)
}

/** Decodes the body of STAND_IN. Throws ERR_FDB_MESSAGE. */
function unservedIn(body: Buffer): UnservedListener[] {
  const list = jsonValue(body.toString())
  if (Array.isArray(list)) return list.map(({ name, key }) => ({ name: String(name), key: String(key) }))
  throw new FdbError(
    'ERR_FDB_MESSAGE',
    `the main process sent a list of listeners (${body.length} bytes) that cannot be read: it is faulty, or of an incompatible release`,
  )
}

const CLAIM_MS = 10_000
const CLAIM_RETRY_MS = 20

/** With SO_REUSEPORT each worker binds its own TCP socket to the same address, and the kernel distributes new connections evenly. */
export function workerSpec(spec: ListenerSpec): ListenerSpec {
  return spec.kind === 'tcp' ? { ...spec, reusePort: true } : spec
}

/**
 * Binds a listener of a worker. TCP: each worker binds a socket of its own. Other kinds: the first worker binds the socket, and the others get
 * dups. `spec` of the result is to be registered; for a dup it is null, because the path belongs to the first worker. Throws the error of
 * binding, for example if another program uses the address.
 */
export async function bindForWorker(
  { control }: WorkerPlace,
  name: string,
  spec: ListenerSpec,
): Promise<{ fd: OwnedFd; spec: ListenerSpec | null }> {
  const key = groupKey(name, spec)
  const shared = await claimFrom(control, key)
  if (shared !== null) return shareWith(shared, spec)
  try {
    const fd = spec.kind === 'tcp' ? bindFirstOfGroup(spec) : bindListener(spec)
    return { fd, spec }
  } catch (error) {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_ADDRESS_IN_USE') throw error
    // Another worker may have bound the address since claimFrom() returned null.
    const first = await claimFrom(control, key)
    if (first === null) throw error
    return shareWith(first, spec)
  }
}

/** Owns `other`, the socket of another worker. */
function shareWith(other: OwnedFd, spec: ListenerSpec): { fd: OwnedFd; spec: ListenerSpec | null } {
  if (spec.kind !== 'tcp') return { fd: other, spec: null }
  try {
    // With port 0 the kernel has chosen the port of the first worker.
    const { port = spec.port } = inspectOne(other)
    return { fd: bindListener({ ...spec, port }), spec }
  } finally {
    other.close()
  }
}

/** Returns a dup of the main process's descriptor of that name, or null if there is none. The caller owns the dup. */
async function claimFrom(control: string, name: string): Promise<OwnedFd | null> {
  const until = performance.now() + CLAIM_MS
  for (;;) {
    using client = await OperatorClient.connect(control, { timeout: CLAIM_MS })
    try {
      return await client.descriptors.claim(name, { shared: true, timeout: CLAIM_MS })
    } catch (error) {
      if (FdbError.is(error) && error.code === 'ERR_FDB_FD_UNKNOWN') return null
      // The main process may have just handed over to its successor.
      const mayRetry = FdbError.is(error) && error.code === 'ERR_FDB_CHANNEL_CLOSED'
      if (!mayRetry || performance.now() + CLAIM_RETRY_MS > until) throw error
    }
    await new Promise(resolve => setTimeout(resolve, CLAIM_RETRY_MS))
  }
}

async function isKnown(control: string, key: string): Promise<boolean> {
  const fd = await claimFrom(control, key)
  fd?.close()
  return fd !== null
}

/** Returns the main process's key for a listener of its workers. Listeners with the same name and address have the same key. */
function groupKey(name: string, spec: ListenerSpec): string {
  return `${GROUP_LISTENER}${nodeCrypto()
    .createHash('sha256')
    .update(`${name}\0${addressOf(spec)}`)
    .digest('hex')
    .slice(0, 40)}`
}

/** Returns the key of an entry of a worker, or null for a dup of another worker's socket and for other descriptors. */
export function groupKeyOf(entry: Entry): string | null {
  return entry.role === 'listener' && entry.spec !== null ? groupKey(entry.name, entry.spec) : null
}
