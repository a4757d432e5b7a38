import { FdbError } from '../errors.js'

/** Programs that run JavaScript as Node does, but lack functions of libuv that the addon calls: they end the process at such a call. */
const OTHERS = { bun: 'Bun', deno: 'Deno' } as const

/**
 * Checks that Node runs this process.
 *
 * @throws {FdbError} ERR_FDB_PLATFORM in Bun and Deno.
 */
export function checkRuntime(): void {
  for (const [key, name] of Object.entries(OTHERS)) {
    const version = process.versions[key]
    if (version === undefined) continue
    throw new FdbError(
      'ERR_FDB_PLATFORM',
      `fd-broker does not run in ${name} (here ${version}), which lacks functions of libuv: start the program with node, or without fd-broker`,
    )
  }
}
