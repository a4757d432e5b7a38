import type { File, Listener, Open, Pidfd, Stream } from '../kernel/objects.js'
import type { SimulatedProcess } from '../process.js'
import { isEvents } from '../scenario/census.js'

/** The memory files of the state: their number depends on what was merged when. */
export const STATE = 'memory files of the state'
/** The process may have this many more that wait to be merged. */
const MORE_OF_STATE = 2

/** How many things of each kind a process has. */
export type Census = ReadonlyMap<string, number>

function kindOf(open: Open): string {
  switch (open.kind) {
    case 'listener':
      return (open as Listener).tcp ? 'TCP listeners' : 'Unix listeners'
    case 'stream':
      return (open as Stream).tcp ? 'TCP connections' : 'Unix connections'
    case 'pidfd':
      return 'pidfds'
    case 'file': {
      const { inode } = open as File
      // Documented: in memory for good if the file cannot be made.
      if (isEvents(inode.name) || inode.name === 'fdb-events') return 'files of events'
      if (inode.sealable) return inode.name.startsWith('fdb-state') ? STATE : `memory files ${inode.name}`
      return inode.locker === open ? 'locked files' : 'files'
    }
    default:
      return 'other descriptors'
  }
}

export function censusOf(p: SimulatedProcess): Census {
  const counts = new Map<string, number>()
  const add = (kind: string) => counts.set(kind, (counts.get(kind) ?? 0) + 1)
  for (const open of p.fds.values()) add(kindOf(open))
  for (const _ of p.timers) add('timers')
  for (const _ of p.polls) add('polls')
  for (const _ of p.pauses) add('watches of pauses')
  return counts
}

/** A daemon has one pidfd of each member, and one more with which it waits for its end. */
const MOST_PIDFDS = 2

/** Returns of which processes a daemon keeps more pidfds than it needs. */
export function tooManyPidfds(daemon: SimulatedProcess): string[] {
  const counts = new Map<string, number>()
  for (const open of daemon.fds.values()) {
    if (open.kind !== 'pidfd') continue
    const { name } = (open as Pidfd).target
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  const more = [...counts].filter(([, count]) => count > MOST_PIDFDS)
  return more.map(([name, count]) => `${daemon.name} keeps ${count} pidfds of ${name}`)
}

/** Returns what a process has more, or less, than it has in a run without trouble. */
export function differences(name: string, has: Census, usual: Census): string[] {
  const kinds = new Set([...has.keys(), ...usual.keys()])
  return [...kinds]
    .map(kind => [kind, has.get(kind) ?? 0, usual.get(kind) ?? 0] as const)
    .filter(([kind, now, before]) => (kind === STATE ? now > before + MORE_OF_STATE : now !== before))
    .map(([kind, now, before]) => `${name} has ${now} ${kind}, without the trouble ${before}`)
}
