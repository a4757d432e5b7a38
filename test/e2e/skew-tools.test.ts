import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { present, releases, type Version } from '../processes/release.js'
import { behind } from './edge-behind.js'

const TOOLS = releases().flatMap((release): [string, string, Version, Version][] => [
  [release.name, present.name, release, present],
  [present.name, release.name, present, release],
])

describe.each(TOOLS)('the tools of %s', (_, _other, tools, served) => {
  it(`understand a process of ${served.name}, and replace it`, async () => {
    const edge = await behind({}, served)
    const control = ['--control', edge.sandbox.control]
    const run = async (...args: string[]) => {
      const { code, stdout, stderr } = await edge.sandbox.runCommand([...tools.cli, ...args, ...control])
      expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: '' })
      return stdout
    }
    const pid = await edge.pid
    if (NIGHTLY) expect(await run('status')).toContain(`${pid}`)
    expect(JSON.parse(await run('status', '--json'))).toMatchObject({ pid, role: 'serving', generation: 1 })
    expect(await run('routes', 'add', '--host', 'a.test', '--upstream', 'odd')).toBe('1 added\n')
    if (NIGHTLY) expect(await run('state', 'verify')).toMatch(/entries(, verified with| as) the service/)
    const { sections } = JSON.parse(await run('state', 'stats', '--json')) as { sections: { name: string }[] }
    expect(sections.map(({ name }) => name)).toContain('routes')
    const file = join(edge.sandbox.folder, 'state.jsonl')
    await run('state', 'export', '--out', file)
    expect(await run('routes', 'remove', '--host', 'a.test')).toBe('1 removed\n')
    expect(await run('state', 'import', '--file', file)).toMatch(/^\d+ entries of .*routes/)
    expect(await run('routes', 'list')).toMatch(/a\.test +\/ +runtime +odd/)
    const upgrade = ['upgrade', '--json', ...control, '--', ...tools.cli, 'proxy', '--config', edge.file]
    const { code, stdout } = await edge.sandbox.runCommand([...tools.cli, ...upgrade])
    expect({ code, stdout: JSON.parse(stdout) }).toMatchObject({ code: 0, stdout: { generation: 2 } })
    expect((await edge.status()).generation).toBe(2)
    if (NIGHTLY) expect(await run('routes', 'list')).toContain('a.test')
  })
})
