import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { AutoProgram } from '../../e2e/auto-program.js'
import { journalOf, SERVER, WrappedProgram } from '../../e2e/wrapped-program.js'
import { hasEnded, signalPid } from '../../processes/launch.js'
import { until } from '../../processes/until.js'
import { installed } from '../installed.js'

const TYPED = SERVER.replace('server =', 'server: http.Server =')
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

describe('a program under fd-broker/auto that a tool has started in a terminal can clean up, before and after an upgrade, at', () => {
  const GENERATIONS = [1, 2] as const

  it.each(GENERATIONS)('Ctrl-C to ts-node, generation %d', async generation => {
    const tool = [join(modules, 'ts-node/dist/bin.js'), '--transpile-only']
    // With --import Node itself loads the program, as a module.
    const env = {
      NODE_OPTIONS: '--require fd-broker/auto',
      TS_NODE_COMPILER_OPTIONS: '{"module":"commonjs","esModuleInterop":true}',
    }
    const wrapped = await WrappedProgram.of(tool, TYPED, 'server.ts', { modules, env })
    const { pid, replaced } = await wrapped.ended('SIGINT', generation)
    expect(wrapped.program.read('journal')).toBe(journalOf('SIGINT', pid, replaced))
  })

  it.each(GENERATIONS)('SIGTERM to cross-env, generation %d', async generation => {
    const tool = [join(modules, 'cross-env/dist/bin/cross-env.js'), 'A=b', 'node']
    const wrapped = await WrappedProgram.of(tool, SERVER, 'server.mjs', { modules })
    const { pid, replaced } = await wrapped.ended('SIGTERM', generation)
    expect(wrapped.program.read('journal')).toBe(journalOf('SIGTERM', pid, replaced))
  })

  it.each(GENERATIONS)('Ctrl-C to dotenv-cli, generation %d', async generation => {
    const tool = [join(modules, 'dotenv-cli/cli.js'), '--', 'node']
    const wrapped = await WrappedProgram.of(tool, SERVER, 'server.mjs', { modules })
    const { pid, replaced } = await wrapped.ended('SIGINT', generation)
    expect(wrapped.program.read('journal')).toBe(journalOf('SIGINT', pid, replaced))
  })
})

/** The use of each library, and its cleanup at the end of the process; `there` is a file's name. */
const LIBRARIES: Readonly<Record<string, string>> = {
  'signal-exit 4': `import { onExit } from 'signal-exit'
onExit(() => rmSync(there))
`,
  'signal-exit 3': `import onExit from 'signal-exit-3'
onExit(() => rmSync(there))
`,
  'proper-lockfile': `import lockfile from 'proper-lockfile'
await lockfile.lock('package.json', { lockfilePath: there + '.lock' })
rmSync(there)
`,
  execa: `import { execa } from 'execa'
const child = execa('sleep', ['60'])
child.catch(() => {})
console.log(child.pid)
rmSync(there)
`,
}

describe('under fd-broker/auto a library that ends the process only if no other code listens ends it, and cleans up, before and after an upgrade:', () => {
  it.each(Object.keys(LIBRARIES))('%s', async name => {
    const program = await AutoProgram.of(
      `import { rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
const there = 'there-' + process.pid
writeFileSync(there, '')
${LIBRARIES[name]}
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`,
      'server.mjs',
      { modules, env: { FD_BROKER_PROBATION: '0' } },
    )
    for (const generations of [1, 2]) {
      let pid = await program.serve('import', 1)
      const ended = [pid]
      if (generations === 2) {
        pid = await program.serve('import', 2)
        await program.ends(ended[0]!)
        ended.push(pid)
      }
      signalPid(pid, 'SIGTERM')
      await program.ends(pid)
      const left = ended.flatMap(each => [`there-${each}`, `there-${each}.lock`])
      expect(left.filter(file => existsSync(program.path(file)))).toEqual([])
    }
    const children = program.output.split('\n').map(Number).filter(Boolean)
    expect(children).toHaveLength(name === 'execa' ? 3 : 0)
    await until('its children have ended', () => children.every(hasEnded))
  })
})
