import type { Noted } from '../holder/names-note.js'
import type { Entry } from '../holder/registry.js'
import { inspectOne, type OwnedFd } from '../kernel/index.js'

/**
 * What a process that hangs has noted, out of its descriptors (where each leads, as /proc says). A socket is told by its inode; all else by its
 * number, where that leads still to what was noted: others may look alike ({@link keptName} says how). Releases before this noted inodes alone: the
 * first that has it counts.
 */
export function entriesOf(
  noted: Noted,
  descriptors: ReadonlyMap<number, string>,
  take: (number: number, label: string) => OwnedFd,
): Entry[] {
  const entries: Entry[] = []
  for (const { name, role, spec, ino, dev, number } of noted.entries) {
    for (const [candidate, leads] of descriptors) {
      const may = leads.startsWith('socket:')
        ? leads === `socket:[${ino}]`
        : number === undefined || number === candidate
      if (!may) continue
      const fd = take(candidate, name)
      const about = inspectOne(fd)
      if (about.ino === ino && (dev === undefined || about.dev === dev)) {
        entries.push({ name, role, spec, fd })
        break
      }
      fd.close()
    }
  }
  return entries
}
