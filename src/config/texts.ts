/** What a text of the file may be. */
import { text } from './check.js'
import { shown, Wrong } from './wrong.js'

export function name(given: string): string | Wrong {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(given)) return given
  return new Wrong(
    `${shown(given)} is no name (1 to 64 letters, digits, ".", "_" and "-", a letter or digit first)`,
  )
}

function filePath(given: string): string | Wrong {
  return given.startsWith('/') && !given.endsWith('/') && !given.includes('\0')
    ? given
    : new Wrong(`${shown(given)} is no absolute path of a file`)
}

export const absolutePath = text('a path', filePath)
