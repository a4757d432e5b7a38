import type { Code } from '../globals.js'
import { World } from '../world.js'
import { Ledger } from './ledger.js'
import { OnceOnlyWork, startVersion } from './program.js'
import { PROBATION_MS } from './schedule.js'

const START_MS = 10_000

/** Returns what is wrong with the files that a power cut would leave now: a version starts with them, in a world of its own. Null if nothing is wrong. */
export function wrongAfterCut(code: Code, world: World, ledger: Ledger): string | null {
  const survivors = world.kernel.disk.survivors()
  const other = new World({ seed: world.below(2 ** 30) })
  other.kernel.boot(survivors)
  const options = { probation: PROBATION_MS, hosting: 'embedded', ledger: new Ledger() } as const
  const version = startVersion(code, 'Z', other, new OnceOnlyWork(), options)
  other.run(() => version.hasServed || version.p.dead, START_MS)
  const when = `after a power cut at ${world.now.toFixed(3)}`
  if (!version.hasServed) return `${when} no version can start: ${version.p.failures.map(String)}`
  const lost = version.p.ask(() => ledger.keys.filter(key => !version.notes!.has(key)))
  return lost.length === 0 ? null : `${when} ${lost.length} of ${ledger.keys.length} durable changes are lost`
}
