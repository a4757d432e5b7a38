import { isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Returns the path of the file that contains the caller: a module, or the bundle of an application. (In a CommonJS bundle `import.meta` is
 * empty, or has the folder of the build machine.) If V8 does not report the file, returns the program's path.
 */
export function thisFile(): string {
  const { prepareStackTrace, stackTraceLimit } = Error
  let files: readonly (string | null | undefined)[] = []
  try {
    Error.stackTraceLimit = 2
    Error.prepareStackTrace = (_error, sites) => sites.map(site => site.getFileName())
    const { stack } = new Error()
    if (Array.isArray(stack)) files = stack as string[]
  } catch {
    // The program has frozen Error.
  } finally {
    Object.assign(Error, { prepareStackTrace, stackTraceLimit })
  }
  const paths = files.map(file => (file?.startsWith('file:') ? fileURLToPath(file) : (file ?? '')))
  return [paths[1], paths[0], process.argv[1]].find(path => path && isAbsolute(path)) ?? process.execPath
}

/** Returns a `require` that resolves names as in `file`. Bundlers do not follow its calls. */
export function requireAs(file: string): NodeJS.Require {
  return process.getBuiltinModule('node:module').createRequire(file)
}
