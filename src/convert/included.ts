import { readdirSync, readFileSync } from 'node:fs'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { FdbError } from '../errors.js'
import { literal } from './conditions.js'
import { type Included, isPattern } from './nginx-syntax.js'

/** Finds what `include` names, relative to the folder of the first file, as nginx does; see {@link isPattern}. Throws ERR_FDB_CONFIG. */
export function includedBelow(file: string): Included {
  const folder = dirname(resolve(file))
  return pattern => {
    const path = isAbsolute(pattern) ? pattern : join(folder, pattern)
    return matching(path).flatMap(each => {
      try {
        return [{ file: each, text: readFileSync(each, 'utf8') }]
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code === 'ENOENT') return []
        throw unreadable(each, error)
      }
    })
  }
}

/** The paths that a pattern names, sorted. */
function matching(pattern: string): string[] {
  const [first = '', ...rest] = pattern.split('/')
  let paths = [first]
  for (const part of rest) {
    if (isPattern(part)) {
      const name = expressionOf(part)
      const isHidden = (one: string) => one.startsWith('.') && !part.startsWith('.')
      paths = paths.flatMap(each =>
        namesIn(`${each}/`)
          .filter(one => !isHidden(one) && name.test(one))
          .map(one => `${each}/${one}`),
      )
    } else paths = paths.map(each => `${each}/${part}`)
  }
  return paths.sort()
}

function expressionOf(part: string): RegExp {
  const text = part.replace(
    /\[([!^]?)(\]?[^\]]*)\]|[*?]|[^*?[]+|\[/g,
    (each, not: string | undefined, set: string | undefined) => {
      if (set !== undefined) {
        // As in fnmatch(3), a range whose end comes before its begin has no characters.
        const ranges = set.replace(/(.)-(.)/gs, (range, from, to) => (from > to ? '' : range))
        return `[${not === '' ? '' : '^'}${ranges.replace(/[\\\][^]/g, '\\$&')}]`
      }
      return each === '*' ? '.*' : each === '?' ? '.' : literal(each)
    },
  )
  return new RegExp(`^${text}$`, 's')
}

/** Returns none for a path that is no folder. An unreadable folder may have the files that close a route. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return []
    throw unreadable(folder, error)
  }
}

function unreadable(path: string, cause: unknown): FdbError {
  return new FdbError('ERR_FDB_CONFIG', `${path} cannot be read (${(cause as Error).message})`, { cause })
}
