import { EventEmitter } from 'node:events'
import type { SimulatedProcess } from '../process.js'
import { at } from '../world.js'
import { fail, UID } from './objects.js'

interface SpawnOptions {
  readonly env?: NodeJS.ProcessEnv
  readonly detached?: boolean
}

/** The program that every process of the simulation is started with. */
export const NODE = '/usr/bin/node'
/** Failures of which Node tells by an event; it throws others. */
const TOLD = new Set(['EACCES', 'EAGAIN', 'EMFILE', 'ENFILE', 'ENOENT'])

/** A child process as `node:child_process` gives it. */
class Child extends EventEmitter {
  pid: number | undefined
  readonly #parent = at.p
  #isHeld = false

  unref(): void {
    if (this.#isHeld) this.#parent.children--
    this.#isHeld = false
  }

  ref(): void {
    if (!this.#isHeld) this.#parent.children++
    this.#isHeld = true
  }
}

/** `spawn()` of `node:child_process`: the program is one of the world's. */
function spawn(file: string, args: readonly string[], { env, detached = false }: SpawnOptions): Child {
  const parent = at.p
  const { world } = parent
  const child = new Child()
  try {
    world.enter(parent, 'spawn')
    if (!world.kernel.names.has(file)) fail('ENOENT', `spawn ${file}`)
    const p = world.execute({ script: args[0]!, parent, env: { ...env }, leads: detached, given: null })
    child.pid = p.pid
    child.ref()
    p.onEnded = () =>
      parent.complete(() => {
        child.unref()
        child.emit('exit', p.exit.code, p.exit.signal)
      })
    parent.tick(() => child.emit('spawn'))
  } catch (error) {
    if (!TOLD.has((error as NodeJS.ErrnoException).code ?? '')) throw error
    parent.tick(() => child.emit('error', error))
  }
  return child
}

export const simulatedChildren = { spawn }

/** `/proc/PID/stat`, with the fields that the drivers read. */
export function statOf({ pid, parent, group, session, dead, startedAt }: SimulatedProcess): string {
  const ppid = parent === null || parent.dead ? 1 : parent.pid
  const ticks = Math.floor(startedAt / 10)
  return `${pid} (node) ${dead ? 'Z' : 'S'} ${ppid} ${group} ${session} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 ${ticks} 0`
}

/** The lines of `/proc/PID/status` that the drivers read. */
export function statusOf(): string {
  const ids = Array(4).fill(UID).join('\t')
  return `Uid:\t${ids}\nGid:\t${ids}\n`
}
