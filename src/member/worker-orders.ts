import { FdbError } from '../errors.js'
import { FOSTER, YIELD } from '../operator/service-commands.js'
import type { WorkerPlace } from '../os/default-control.js'
import type { Commands } from './commands.js'
import { claimFrom } from './group-listeners.js'
import type { Listener } from './listener.js'

/** A listener of a worker whose place nobody has taken. */
export interface Orphan {
  readonly name: string
  /** By which the main process is asked for it. */
  readonly key: string
}

/** A worker. */
export interface Employed {
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
  const follow = async (orphans: readonly Orphan[]) => {
    for (const listener of listeners()) {
      const wanted = orphans.filter(({ name }) => name === listener.name)
      listener.keepFosters(new Set(wanted.map(({ key }) => key)))
      for (const { key } of wanted) {
        if (listener.fosters.has(key)) continue
        const fd = await claimFrom(control, key)
        if (fd !== null) listener.foster(key, fd)
      }
    }
  }
  commands.set(FOSTER, async body => {
    const orphans = orphansIn(body)
    turn = turn.then(() => follow(orphans))
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

export function fosterBody(orphans: readonly Orphan[]): string {
  return JSON.stringify(orphans)
}

/** Throws ERR_FDB_MESSAGE. */
function orphansIn(body: Buffer): Orphan[] {
  try {
    const list: unknown = JSON.parse(body.toString())
    if (Array.isArray(list)) return list.map(({ name, key }) => ({ name: String(name), key: String(key) }))
  } catch {
    // What is wrong is said below.
  }
  throw new FdbError('ERR_FDB_MESSAGE', `${body.length} bytes of a main process's order are no list`)
}
