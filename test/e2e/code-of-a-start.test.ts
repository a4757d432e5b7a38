import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { Edge } from '../processes/edge.js'
import { launchUnrelated } from '../processes/launch.js'
import { present } from '../processes/release.js'

/**
 * The most characters of program.cjs that a proxy with one route may run from its start to its end: the same number each time, and a measure of the start's
 * processor time that does not depend on the machine. A feature that is not used should add the keys of its configuration and little else.
 */
const MOST = 560_000

interface CoveredFunction {
  readonly ranges: readonly { startOffset: number; endOffset: number; count: number }[]
}

/** Characters of functions that ran, without functions within them that did not. */
function charactersRun(functions: readonly CoveredFunction[]): number {
  const whole = functions.map(({ ranges }) => ranges[0]!)
  const ran = new Uint8Array(Math.max(...whole.map(({ endOffset }) => endOffset)))
  const outerFirst = whole.sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset)
  for (const { startOffset, endOffset, count } of outerFirst)
    ran.fill(count > 0 ? 1 : 0, startOffset, endOffset)
  return ran.reduce((sum, one) => sum + one, 0)
}

it('a proxy with one route runs little code from its start to its end', async () => {
  const edge = await Edge.prepare({
    upstreams: { a: { servers: ['http://127.0.0.1:9'] } },
    routes: [{ host: '*', path: '/', upstream: 'a' }],
  })
  const folder = join(edge.sandbox.folder, 'coverage')
  const pid = await launchUnrelated([...present.cli, 'proxy', '--config', edge.file], {
    log: edge.sandbox.log,
    env: { ...edge.sandbox.env, NODE_V8_COVERAGE: folder },
  })
  await edge.serving(pid)
  expect((await fetch(edge.url)).status).toBe(502)
  await edge.signal('SIGTERM', pid)
  await edge.ended(pid)
  const [file, ...others] = readdirSync(folder)
  expect(others).toEqual([])
  const { result } = JSON.parse(readFileSync(join(folder, file!), 'utf8'))
  const program = result.find(({ url }: { url: string }) => url.endsWith('/program.cjs'))
  expect(charactersRun(program.functions)).toBeLessThanOrEqual(MOST)
})
