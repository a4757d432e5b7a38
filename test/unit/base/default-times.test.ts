import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { DEFAULT_TIMES, defaultText } from '../../../src/base/default-times.js'
import { defaultDocs } from '../../../tools/default-docs.mjs'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const read = (name: string) => readFileSync(`${root}/${name}`, 'utf8')
type Column = 'join' | 'run' | 'workers' | 'proxy'

/** Names of one column, each with its default. */
function namesOf(column: Column): [name: string, text: string, ms: number][] {
  return Object.entries(DEFAULT_TIMES).flatMap(([time, entry]) => {
    const name = (entry as Partial<Record<Column, string>>)[column]
    return name === undefined ? [] : [[name, defaultText(time as keyof typeof DEFAULT_TIMES), entry.ms]]
  })
}

describe('default times', () => {
  it('fill docs/times.md (npm run default-docs)', () => {
    expect(read('docs/times.md')).toBe(defaultDocs(DEFAULT_TIMES, defaultText))
  })

  it.each(namesOf('proxy'))('set %s of the proxy to %s', (name, text) => {
    expect(read('docs/proxy-config.md')).toContain(`\n- \`${name}\` (\`${text}\`):`)
  })

  it.each([...namesOf('run'), ...namesOf('workers')])('set %s to %s', (name, text) => {
    const lines = read('docs/commands.md').split('\n')
    const described = lines.filter(line => line.includes(`${name} `) && line.includes(text))
    expect(described.length).toBeGreaterThan(0)
  })

  it.each(namesOf('join').filter(([name]) => !name.startsWith('upgrade.')))(
    'set %s of join() to %s, as its comment says',
    (name, _, ms) => {
      const source = read('src/member/options/options.ts').replaceAll(/(\d) (?=\d{3})/g, '$1')
      const [group, option = group] = name.split('.')
      const rest = source.slice(option === group ? 0 : source.indexOf(`${group}?:`))
      const comment = rest
        .slice(0, rest.indexOf(`${option}?:`))
        .split('/**')
        .at(-1)
      expect(comment).toMatch(new RegExp(`\\b${ms}\\b`))
    },
  )

  it.each([
    ['timeout', DEFAULT_TIMES.ready.ms],
    ['restartDelay', DEFAULT_TIMES.workerRestartDelay.ms],
    ['stopTimeout', DEFAULT_TIMES.stop.ms],
    ['hungTimeout', DEFAULT_TIMES.hung.ms],
  ])('set %s of startWorkers() to %i, as its comment says', (option, ms) => {
    const source = read('src/workers/options.ts').replaceAll(/(\d) (?=\d{3})/g, '$1')
    const comment = source
      .slice(0, source.indexOf(`  ${option}?:`))
      .split('/**')
      .at(-1)
    expect(comment?.replaceAll(/\s+\*?\s*/g, ' ')).toContain(`Default ${ms}`)
  })

  it('have the unit that loses nothing', () => {
    expect([defaultText('heartbeat'), defaultText('ready'), defaultText('drainTls')]).toEqual([
      '250ms',
      '60s',
      '1h',
    ])
  })
})
