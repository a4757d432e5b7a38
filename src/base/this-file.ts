import { isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Returns the path of the file that the caller's code is in: a module, or the bundle of an application. `import.meta` would be empty in a bundle of
 * CommonJS, or name a folder of the machine that has made it. Where V8 does not say, it is the path of the program.
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
    // The intrinsics are frozen.
  } finally {
    Object.assign(Error, { prepareStackTrace, stackTraceLimit })
  }
  const paths = files.map(file => (file?.startsWith('file:') ? fileURLToPath(file) : (file ?? '')))
  return [paths[1], paths[0], process.argv[1]].find(path => path && isAbsolute(path)) ?? process.execPath
}

/** Requires as the caller's file does. Bundlers do not look into it. */
export function requireAs(file: string): NodeJS.Require {
  return process.getBuiltinModule('node:module').createRequire(file)
}
