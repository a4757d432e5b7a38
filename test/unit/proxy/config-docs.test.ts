import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { Field, Shape } from '../../../src/checks/shape.js'
import { configShape } from '../../../src/proxy/config/schema.js'
import { config, EXAMPLE, LEAST } from '../../fixtures/proxy-config.js'

const text = readFileSync(new URL('../../../docs/proxy-config.md', import.meta.url), 'utf8')

const LISTS: Readonly<Record<string, string>> = {
  listeners: '[].',
  routes: '[].',
  upstreams: '.NAME.',
  'upstreams.NAME.servers': '[].',
  'tls.certificates': '[].',
}

/** The page's line for each key, as the schema has it. */
function rows(shape: Shape, before = ''): string[] {
  return Object.entries(shape).flatMap(([key, field]) => {
    const path = before + key
    const within = LISTS[path] ?? '.'
    const below = field.fields ? rows(field.fields, path + within) : []
    return [`- \`${path}\`${byDefault(field)}: ${field.about}`, ...below]
  })
}

function byDefault({ byDefault, fields }: Field<unknown>): string {
  if (!byDefault) return ' (required)'
  const { written } = byDefault
  if (written === undefined || (fields && JSON.stringify(written) === '{}')) return ''
  return ` (\`${typeof written === 'string' && written !== '' ? written : JSON.stringify(written)}\`)`
}

describe('docs/proxy-config.md', () => {
  it('has a line for every key, with the default that is used', () => {
    const expected = rows(configShape(new Set(), new Set()))
    expect(text.split('\n').filter(line => line.startsWith('- `'))).toEqual(expected)
  })

  it('shows ways for a version to prove itself that are accepted', () => {
    const [, section = ''] = /## A version must prove itself\n(.*?)\n## /s.exec(text) ?? []
    const shown = [...section.matchAll(/```yaml\n(.*?)```/gs)].map(([, yaml]) => config(`${LEAST}${yaml}`))
    expect(shown.map(({ upgrade }) => upgrade.health)).toMatchObject([
      { http: '/health', host: 'app.example.com', timeout: 2000 },
      { command: expect.stringContaining('"$FD_BROKER_SOCKET"') },
    ])
  })

  it('shows an example that is accepted', () => {
    const [, example = ''] = /```yaml\n(.*?)```/s.exec(text) ?? []
    expect(config(example)).toEqual(config(EXAMPLE))
  })
})
