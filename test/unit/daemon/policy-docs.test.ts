import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import type { Shape } from '../../../src/checks/shape.js'
import { parsePolicy, policyShape } from '../../../src/daemon/policy/schema.js'

const text = readFileSync(new URL('../../../docs/daemon.md', import.meta.url), 'utf8')

/** The page's line for each key, as the schema has it. */
function rows(shape: Shape, before = ''): string[] {
  return Object.entries(shape).flatMap(([key, { about, fields }]) => {
    const path = before + key
    return [`- \`${path}\`: ${about}`, ...(fields ? rows(fields, `${path}.`) : [])]
  })
}

it('docs/daemon.md has a line for every key of a daemon’s configuration', () => {
  const [, table = ''] = text.split('## Keys\n')
  expect(table.split('\n').filter(line => line.startsWith('- `'))).toEqual(rows(policyShape))
})

it('docs/daemon.md shows a configuration that is accepted', () => {
  const [, example = ''] = /```yaml\n(.*?)```/s.exec(text) ?? []
  const { services, others } = parsePolicy(example, 'broker.yaml')
  expect([...services.keys()]).toEqual(['shop', 'demo'])
  expect([others.limits.members, services.get('demo')?.limits.members]).toEqual([8, 8])
})
