import { readdirSync, readFileSync } from 'node:fs'
import type { JoinOptions, ReadyOptions, SectionOptions, UpgradeOptions } from 'fd-broker'
import type { AskOptions } from 'fd-broker/operator'
import type { ProxyOptions } from 'fd-broker/proxy'
import { expect, expectTypeOf, it } from 'vitest'

const REPORTS = new URL('../../api/', import.meta.url)
/** An optional property at the end of its line. A property whose type begins here ends at the bracket of the same depth. */
const OPTIONAL = /^(?<depth> +)(?:readonly )?(?<name>\w+)\?: (?<type>.*)$/
/** Parameters of a call, not results. */
const GIVEN = /^export interface (?<name>\w+(?:Options|Ask|Hooks)|ConnectionKeeper)\b/

/** The optional properties of the public types of options that refuse `{ name: undefined }` under `exactOptionalPropertyTypes`. */
function refusing(report: string): string[] {
  const lines = report.split('\n')
  const found: string[] = []
  let type: string | null = null
  lines.forEach((line, at) => {
    if (line === '}') type = null
    if (line.startsWith('export ')) type = GIVEN.exec(line)?.groups?.name ?? null
    const property = OPTIONAL.exec(line)?.groups
    if (type === null || property === undefined) return
    const end = property.type!.endsWith('{')
      ? lines.slice(at).find(other => other.startsWith(`${property.depth}}`))!
      : property.type!
    if (!/\| undefined\)?;$/.test(end) && end !== 'unknown;') found.push(`${type}.${property.name}`)
  })
  return found
}

it('each public option may be undefined, also for a program with exactOptionalPropertyTypes', () => {
  const reports = readdirSync(REPORTS).filter(name => name.endsWith('.api.md'))
  expect(reports.length).toBeGreaterThan(4)
  expect(reports.flatMap(name => refusing(readFileSync(new URL(name, REPORTS), 'utf8')))).toEqual([])
})

it('the compiler accepts options that are undefined, within others too', () => {
  const drain = { timeout: undefined, move: undefined, generations: undefined }
  expectTypeOf({
    service: 'shop',
    timeout: undefined,
    drain,
    upgrade: { ready: undefined },
  }).toExtend<JoinOptions>()
  expectTypeOf({
    stateFile: undefined,
    stateLimits: { logBytes: undefined },
    systemd: undefined,
    service: 'shop',
  }).toExtend<JoinOptions>()
  expectTypeOf({ timeout: undefined, checks: undefined }).toExtend<ReadyOptions>()
  expectTypeOf({ argv: undefined, signal: undefined }).toExtend<UpgradeOptions>()
  expectTypeOf({ timeout: undefined }).toExtend<AskOptions>()
  expectTypeOf({ place: { service: undefined } }).toExtend<ProxyOptions>()
  expectTypeOf({ version: 1, migrate: undefined, durable: undefined }).toExtend<
    Omit<SectionOptions<number>, 'codec'>
  >()
})
