import { constants } from 'node:os'
import type { Native } from '../../../src/kernel/native.js'
import type { Given, SimulatedProcess } from '../process.js'
import { at } from '../world.js'
import { asFile, put } from './addon.js'
import { fail, type Open } from './objects.js'

/** Parents and children, as in Linux. */

const READABLE = 1
/** A guardian looks again so often for processes that were just started, and after so long. */
const PASSES = 3
const PASS_MS = 20

function childrenOf(p: SimulatedProcess): SimulatedProcess[] {
  return [...p.world.processes.values()].filter(each => each.given !== null && each.parent === p)
}

/** The process that gets the children of one that has ended: the nearest ancestor that adopts orphans; null: init. */
function heirOf(p: SimulatedProcess): SimulatedProcess | null {
  for (let heir = p.parent; heir !== null; heir = heir.parent) if (heir.adopts && !heir.dead) return heir
  return null
}

/** Passes the children of a process that has ended to its heir, and tells its parent. Init waits for a child at once. */
export function bury(p: SimulatedProcess): void {
  const heir = heirOf(p)
  for (const child of childrenOf(p)) {
    child.parent = heir
    if (child.isZombie) tellParent(child)
    else if (child.given!.deathSignal !== 0) p.world.deliver(child, child.given!.deathSignal)
  }
  if (p.isZombie) tellParent(p)
}

function tellParent(p: SimulatedProcess): void {
  if (p.parent === null || p.parent.dead) p.world.reap(p)
  else p.world.deliver(p.parent, 'SIGCHLD')
}

function strings(bytes: Uint8Array): string[] {
  return Buffer.from(bytes).toString().split('\0').slice(0, -1)
}

function environmentOf(lines: readonly string[]): NodeJS.ProcessEnv {
  return Object.fromEntries(
    lines.map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  )
}

/** Kills the processes that were started with one of the marks in the file, as the guardian of the addon does when the other end of its leash is closed. */
function watchEnd(p: SimulatedProcess, leash: Open, marks: Open): void {
  const { world } = p
  const inode = marks.inode!
  const killMarked = (pass: number) => {
    const wanted = strings(inode.data.subarray(0, inode.size))
    const isMarked = ({ begunWith }: SimulatedProcess) =>
      wanted.some(mark => {
        const { [mark.slice(0, mark.indexOf('='))]: value } = begunWith
        return value === mark.slice(mark.indexOf('=') + 1)
      })
    for (const each of [...world.processes.values()])
      if (!each.dead && isMarked(each)) world.deliver(each, 'SIGKILL')
    if (wanted.length === 0 || pass >= PASSES) world.exit(p, 'ends')
    else p.setTimer(() => killMarked(pass + 1), PASS_MS)
  }
  const poll = {
    process: p,
    open: leash,
    events: READABLE,
    isHeld: true,
    callback: () => {
      poll.events = 0
      killMarked(1)
    },
  }
  p.polls.add(poll)
  leash.polls.add(poll)
}

export const children: Partial<Native> = {
  adoptOrphans() {
    at.p.adopts = true
    return true
  },
  spawn(words, env, pidAt, fds, deathSignal, inSession = false) {
    const parent = at.p
    const { world } = parent
    const [file = '', cwd = '', ...argv] = strings(words)
    const given: Given = {
      fds: inSession ? [] : fds.map(fd => parent.fds.get(fd) ?? fail('EBADF', 'dup')),
      deathSignal,
      pidVariable:
        pidAt < 0
          ? null
          : Buffer.from(env)
              .toString()
              .slice(0, pidAt - 1)
              .split('\0')
              .at(-1)!,
    }
    if (cwd !== '' && world.kernel.names.get(cwd)?.type !== 'dir') fail('ENOENT', 'chdir')
    if (!world.kernel.names.has(file)) fail('ENOENT', 'execve')
    const variables = environmentOf(strings(env))
    return world.execute({ script: argv[1] ?? file, parent, env: variables, leads: inSession, given }).pid
  },
  killAtEnd(marks) {
    const parent = at.p
    const { world } = parent
    const file = asFile(marks, 'fcntl', 'EBADF')
    const [own, theirs] = world.kernel.pair(
      { pid: 0, uid: 0, gid: 0, process: parent },
      { pid: 0, uid: 0, gid: 0, process: parent },
    )
    const given = { fds: [theirs, file], deathSignal: 0, pidVariable: null }
    const main = async (p: SimulatedProcess) => watchEnd(p, theirs, file)
    const p = world.start('guardian', main, { parent, env: parent.env, leads: true, given })
    p.blocksSignals = true
    return put(own)
  },
  endedChild() {
    const all = childrenOf(at.p)
    return all.find(({ isZombie }) => isZombie)?.pid ?? (all.length > 0 ? 0 : -1)
  },
  reapChild(pid) {
    const child = childrenOf(at.p).find(each => each.pid === pid)
    if (child === undefined || !child.isZombie) return null
    child.world.reap(child)
    const { code, signal } = child.exit
    return signal === null ? (code ?? 0) : -constants.signals[signal]
  },
}
