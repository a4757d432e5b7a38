import { type Stats, statSync } from 'node:fs'

/** Reports whether a path leads to something that is no regular file, and so can be no state file. */
export function isNoFile(path: string): boolean {
  const found = statOf(path)
  return found !== undefined && !found.isFile()
}

export function isFolder(path: string): boolean {
  return statOf(path)?.isDirectory() ?? false
}

/** Returns undefined for a path that does not exist, or that this user cannot follow: the start reports that. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch {
    return undefined
  }
}
