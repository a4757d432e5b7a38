import { execFileSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import { compiled } from '../../processes/compiled.js'

/** Returns the active resources of a process that has run a program. The process's output and error are pipes. */
function resourcesOf(program: string): Record<string, number> {
  const code = `import { activeResources } from '${compiled('node/active-resources')}'
import { writeSync } from 'node:fs'
import net from 'node:net'
${program}
writeSync(1, JSON.stringify(activeResources()))
process.exit()`
  const args = ['--input-type=module', '-e', code]
  return JSON.parse(
    execFileSync(process.execPath, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

describe('active resources of a process', () => {
  it('belong to the program, without its standard output and error', () => {
    const opened = 'process.stdout; process.stderr; setInterval(() => {}, 1000)'
    const resources = resourcesOf(opened)
    expect(resources).toMatchObject({ Timeout: 1 })
    expect(resources).not.toHaveProperty('PipeWrap')
  })

  it('have the program’s own pipes', () => {
    const resources = resourcesOf("net.createServer().listen('\\0fdb-active-resources-' + process.pid)")
    expect(resources).toMatchObject({ PipeWrap: 1 })
  })
})
