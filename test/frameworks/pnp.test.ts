import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { AutoProgram } from '../e2e/auto-program.js'
import { installed } from './installed.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
/** Yarn's own two, as `yarn node` sets them, for a container without Yarn. */
const PNP = {
  NODE_OPTIONS:
    '--no-warnings --require ./.pnp.cjs --experimental-loader ./.pnp.loader.mjs --import fd-broker/auto',
}
const SOON = { FD_BROKER_PROBATION: '0' }
let yarn = ''

beforeAll(() => {
  yarn = join(installed(fileURLToPath(new URL('.', import.meta.url))), '@yarnpkg/cli-dist/bin/yarn.js')
}, 300_000)

/** A program that Yarn has installed without node_modules. The package is this build, which Yarn shows in a virtual folder, because it has peers. */
async function pluggedIn(): Promise<AutoProgram> {
  const program = await AutoProgram.of(SERVER)
  const {
    private: _own,
    devDependencies: _dev,
    scripts: _scripts,
    ...manifest
  } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  for (const folder of ['dist', 'build/Release'])
    cpSync(join(ROOT, folder), program.path(`package/${folder}`), { recursive: true })
  writeFileSync(program.path('package/package.json'), JSON.stringify(manifest))
  program.write(
    'package.json',
    JSON.stringify({ name: program.name, private: true, dependencies: { 'fd-broker': 'portal:./package' } }),
  )
  program.write('.yarnrc.yml', 'nodeLinker: pnp\nenableTelemetry: false\nenableGlobalCache: false\n')
  program.write('yarn.lock', '')
  const { code, stdout } = await program.sandbox.runCommand([
    'env',
    '-C',
    program.path(''),
    process.execPath,
    yarn,
    'install',
  ])
  expect(code, stdout).toBe(0)
  return program
}

describe('a program that Yarn has installed by Plug’n’Play', () => {
  it('upgrades by its own command and by fd-broker upgrade, and writes no complaint', async () => {
    const program = await pluggedIn()
    const first = await program.serve('nothing', 1, { ...PNP, ...SOON })
    for (let generation = 2; generation <= 4; generation++) {
      if (generation % 2 === 0) await program.command('upgrade')
      else await program.launch('nothing', { ...PNP, ...SOON })
      await program.answeredBy(await program.serves(generation))
    }
    await program.ends(first)
    expect(program.output).toBe('')
    await program.command('stop')
  })

  it('starts in the background, with a log for each version', async () => {
    const program = await pluggedIn()
    const start = () =>
      program.sandbox.runCommand([
        ...[
          'env',
          '-C',
          program.path(''),
          ...Object.entries(program.place).map(([name, value]) => `${name}=${value}`),
        ],
        ...[
          process.execPath,
          yarn,
          'fd-broker',
          'start',
          'server.mjs',
          '--log-file',
          program.path('shop.log'),
        ],
      ])
    for (const generation of [1, 2]) {
      expect(await start()).toMatchObject({ code: 0 })
      await program.answeredBy(await program.serves(generation))
    }
    await program.command('stop')
  })
})
