import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { testsOf } from '../../situations/titles.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const page = readFileSync(join(root, 'docs/compared.md'), 'utf8')
const named = [...page.matchAll(/\[([^\]]+)\]\(\.\.\/(test\/[\w./-]+\.test\.ts)\)/g)].map(
  ([, title, file]) => [title!, file!] as const,
)

it('each line of the comparison has a test of ours', () => {
  const lines = page.split('\n').filter(line => /^\| (?!---|ours )/.test(line))
  expect(lines.length).toBeGreaterThan(30)
  expect(lines.filter(line => !line.includes('.test.ts)'))).toEqual([])
  expect(page.split('\n').length).toBeLessThanOrEqual(81)
})

it.each(named)('the test is there: %s', (title, file) => {
  const tests = testsOf(readFileSync(join(root, file), 'utf8')).map(each => JSON.stringify(each))
  expect(
    tests.some(each => each.includes(JSON.stringify(title).slice(1, -1))),
    file,
  ).toBe(true)
})
