import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const MODULE = fileURLToPath(new URL('../../../build/modules/cli/lone-collections.js', import.meta.url))

/** The output of a process that runs `program`. */
async function printed(flags: string[], program: string): Promise<string> {
  const whole = `const { collectAlone } = await import(${JSON.stringify(MODULE)}); ${program}`
  const args = [...flags, '--input-type=module', '-e', whole]
  return (await promisify(execFile)(process.execPath, args, { maxBuffer: 2 ** 24 })).stdout
}

/** Milliseconds that the helpers of collections of the young generation took. Node 26 prints JSON. */
async function helped(first: string): Promise<number> {
  const work = `let kept = []
    for (let i = 0; i < 300_000; i++) { kept.push({ i }); if (kept.length > 50_000) kept = kept.slice(25_000) }`
  const lines = await printed(['--trace-gc-nvp'], `${first}\nconsole.log('begin')\n${work}`)
  const [, during = ''] = lines.split('begin\n')
  const each = [...during.matchAll(/background\.scavenge\.parallel"?[=:]([0-9.]+)/g)].map(([, ms]) =>
    Number(ms),
  )
  expect(each.length).toBeGreaterThan(2)
  return each.reduce((sum, ms) => sum + ms, 0)
}

describe('the collections of a daemon', () => {
  it('wait for no other thread', async ({ skip }) => {
    skip(
      Number(process.versions.v8.split('.')[0]) >= 14,
      'V8 14 (Node 26) gives the work to a helper all the same',
    )
    expect(await helped('')).toBeGreaterThan(0)
    expect(await helped('collectAlone()')).toBe(0)
  })

  it('change nothing in the cache of compiled code', async () => {
    const program = `
      const { cachedDataVersionTag: tag } = await import('node:v8')
      const before = tag()
      collectAlone()
      console.log(tag() === before)`
    expect(await printed([], program)).toBe('true\n')
  })
})
