import { readdirSync, readFileSync } from 'node:fs'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { FdbError } from '../errors.js'
import { literal } from './conditions.js'
import type { Included } from './nginx-syntax.js'

/** Finds what `include` names, relative to the folder of the first file, as nginx does; `*` stands for a part of a name. */
export function includedBelow(file: string): Included {
  const folder = dirname(resolve(file))
  return pattern => {
    const path = isAbsolute(pattern) ? pattern : join(folder, pattern)
    return matching(path).flatMap(each => {
      try {
        return [{ file: each, text: readFileSync(each, 'utf8') }]
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException
        if (code === 'ENOENT') return []
        throw new FdbError('ERR_FDB_CONFIG', `${each} cannot be read (${message})`, { cause: error })
      }
    })
  }
}

/** The paths that a pattern names, sorted. */
function matching(pattern: string): string[] {
  const [first = '', ...rest] = pattern.split('/')
  let paths = [first]
  for (const part of rest) {
    const name = new RegExp(`^${part.split('*').map(literal).join('[^/]*')}$`)
    paths = part.includes('*')
      ? paths.flatMap(each =>
          namesIn(`${each}/`)
            .filter(one => !one.startsWith('.') && name.test(one))
            .map(one => `${each}/${one}`),
        )
      : paths.map(each => `${each}/${part}`)
  }
  return paths.sort()
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
