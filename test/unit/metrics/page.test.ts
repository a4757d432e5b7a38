import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { METRICS } from '../../fixtures/metrics.js'

it('docs/operating.md has a line for every metric, with its labels', () => {
  const text = readFileSync(new URL('../../../docs/operating.md', import.meta.url), 'utf8')
  const expected = Object.values(METRICS).map(({ name, type, labels, columns, help }) => {
    const all = [...labels, ...(columns ? [columns.label] : [])].map(label => `\`${label}\``).join(', ')
    return `| \`${name}${type === 'counter' ? '_total' : ''}\` | ${type} | ${all}${all === '' ? '' : ' '}| ${help} |`
  })
  expect(text.split('\n').filter(line => line.startsWith('| `fdbroker_'))).toEqual(expected)
})
