import { type BigIntStats, readFileSync, statSync } from 'node:fs'
import { type Place, shortJson } from './place.js'

const MAX_BYTES = 1024 * 1024

/** Reports whether a path leads to something that is no regular file, and so can be no state file. */
export function isNoFile(path: string): boolean {
  const found = statOf(path)
  return found !== undefined && !found.isFile()
}

export function isFolder(path: string): boolean {
  return statOf(path)?.isDirectory() ?? false
}

/** Returns undefined for a path that does not exist, or that this user cannot follow: the start reports that. */
function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true, throwIfNoEntry: false })
  } catch {
    return undefined
  }
}

/** Returns false for a path that this user cannot follow. */
export function isFile(path: string): boolean {
  return statOf(path)?.isFile() ?? false
}

/** Returns why nothing is found at a path that an operator named, as the start of a message; null if something is there. */
export function absence(path: string, what = 'file'): string | null {
  try {
    return statSync(path, { bigint: true, throwIfNoEntry: false }) === undefined
      ? `there is no ${what} ${path}`
      : null
  } catch (error) {
    return `${path} cannot be looked at (${(error as NodeJS.ErrnoException).code})`
  }
}

/** Reads regular files of limited size only: a wrong path must neither block the proxy nor fill its memory. */
export function readText(path: string, place: Place): string | undefined {
  try {
    const facts = statSync(path, { bigint: true })
    if (!facts.isFile()) return place.wrong(`${shortJson(path)} is not a file`)
    if (facts.size > MAX_BYTES)
      return place.wrong(`${shortJson(path)} has ${facts.size} bytes, at most ${MAX_BYTES} are read`)
    return readFileSync(path, 'latin1')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return place.wrong(`${shortJson(path)} cannot be read (${code ?? message})`)
  }
}
