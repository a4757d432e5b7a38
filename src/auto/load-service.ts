import { createRequire } from 'node:module'
import { LIBRARY_FILES } from './library-files.js'
import type { AutoService } from './service.js'

interface Service {
  readonly AutoService: typeof AutoService
}

/**
 * Loads the library, one file in each turn of the event loop, because the program may already serve clients.
 *
 * Node's loader for `import` would make an EventEmitter (a FileHandle) for each file. After about 20 emitters V8 records the classes that
 * Node's EventEmitter functions see. With more than four classes property access in them is megamorphic, and a small HTTP server needs 2 to 4 %
 * more instructions for each request as long as it runs (Node 20, callgrind).
 */
export async function loadService(): Promise<Service> {
  if (process.features.require_module) {
    const require = createRequire(`${import.meta.dirname}/`)
    try {
      let last: unknown
      for (const file of LIBRARY_FILES) {
        await new Promise(setImmediate)
        last = require(file)
      }
      return last as Service
    } catch {
      // The program may import the library at the same time, and import() waits for that. If a file cannot be loaded, import() throws the error.
    }
  }
  return await import('./service.js')
}
