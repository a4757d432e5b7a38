// npm run test:package: packs the build, and tries the tarball as its users install it: in an empty project, from a
// registry on loopback, without a compiler, by npm. `-- --all`: by every package manager.
// `-- --tarball FILE` (or FD_BROKER_TARBALL) tries that one; `-- --built` packs what npm install has just built.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { checkContents } from './contents.js'
import { checkImage } from './image.js'
import { checkInstallation } from './installation.js'
import { checkLint } from './lint.js'
import { MANAGERS, readied } from './managers.js'
import { checkCommands, checkHandoff } from './processes.js'
import { Project } from './project.js'
import { checkOtherBlocks, checkServers } from './readme.js'
import { startRegistry } from './registry.js'
import { bareTarball, pack, readTarball, withAddon } from './tarball.js'
import { checkTypes } from './types.js'

/** The limit of output for one failure. */
const MOST_LINES = 40

const { values: flags } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    built: { type: 'boolean', default: false },
    tarball: { type: 'string', default: process.env.FD_BROKER_TARBALL },
    only: { type: 'string' },
  },
})
const folder = mkdtempSync(join(tmpdir(), 'fdb-tarball-'))
let failures = 0

/** Prints what came of a check, and how long it took. */
async function check(name: string, look: () => string[] | Promise<string[]>): Promise<void> {
  const from = performance.now()
  const wrong = await Promise.resolve()
    .then(look)
    .catch((error: Error) => [error.stack ?? error.message])
  const seconds = ((performance.now() - from) / 1000).toFixed(1)
  console.log(`${wrong.length === 0 ? 'ok    ' : 'FAILED'} ${name} (${seconds} s)`)
  for (const line of wrong)
    console.log(line.trim().split('\n', MOST_LINES).join('\n').replace(/^/gm, '         '))
  failures += wrong.length
}

try {
  const given = flags.tarball === undefined ? pack(folder, flags.built) : readTarball(flags.tarball)
  const tarball = withAddon(given, folder)
  const { name, version } = tarball.manifest
  console.log(
    `${name} ${version}: ${given.files.length} files, ${given.bytes} bytes${tarball === given ? '' : ', and the addon of this checkout: there is no prebuilt one'}`,
  )
  await check('what is in it', () => checkContents(given, flags.tarball !== undefined || tarball === given))
  await check('publint and attw', () => checkLint(tarball))

  const [configured, cache] = ['registry', 'cache'].map(setting =>
    execFileSync('npm', ['config', 'get', setting], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim(),
  ) as [string, string]
  await using registry = await startRegistry(tarball, configured)
  const places = { registry: registry.url, cache }
  const bare = bareTarball(tarball, folder)
  await using bareRegistry = await startRegistry(bare, configured)
  await check('an image of it, and upgrades of its PID 1', () => checkImage(tarball, places))

  for (const [place, manager] of MANAGERS.entries()) {
    if (flags.only !== undefined && flags.only !== manager.name) continue
    if (place > 0 && !flags.all && flags.only === undefined) continue
    const ready = readied(manager)
    const title = `${manager.name} (${ready.version})`
    // Once, to have in its cache what other packages there are.
    {
      await using project = new Project(manager, ready, places)
      await project.install()
    }
    await using project = new Project(manager, ready, places)
    await check(`${title}: installs`, () =>
      checkInstallation(project, version, {
        another: () => new Project(manager, ready, places),
        bare: () => new Project(manager, ready, { ...places, registry: bareRegistry.url }),
        bareVersion: bare.manifest.version,
      }),
    )
    await check(`${title}: is imported and required`, () => loads(project))
    if (place > 0 && !flags.all) continue
    await check(`${title}: commands, and an upgrade of the proxy`, () => checkCommands(project))
    await check(`${title}: a handoff under load`, () => checkHandoff(project))
    await check(`${title}: TypeScript`, () => checkTypes(project, flags.all && place === 0))
    if (!manager.name.startsWith('npm')) continue
    await check(`${title}: the README's code`, () => checkOtherBlocks(project))
    await using empty = new Project(manager, ready, places)
    await check(`${title}: the README's servers, in an empty folder`, () => checkServers(empty))
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
console.log(failures === 0 ? 'test:package: all is well' : `test:package: ${failures} failed`)
process.exitCode = failures === 0 ? 0 : 1

/** Every entry, as a module and from CommonJS: the same classes both ways. */
async function loads(project: Project): Promise<string[]> {
  const entries = [
    'fd-broker',
    'fd-broker/proxy',
    'fd-broker/operator',
    'fd-broker/adapter',
    'fd-broker/errors',
    'fd-broker/stores',
    'fd-broker/sources',
    'fd-broker/streams',
    'fd-broker/ws',
    'fd-broker/socket.io',
  ]
  const program = project.write(
    'loads.cjs',
    `const entries = ${JSON.stringify(entries)}
const required = entries.map(name => require(name))
Promise.all(entries.map(name => import(name))).then(imported => {
  for (const [n, name] of entries.entries())
    for (const key of Object.keys(imported[n]))
      if (key !== 'module.exports' && imported[n][key] !== required[n][key]) throw new Error(name + ': ' + key + ' is another one where it is required')
  if (imported[0].FdbError !== imported[3].FdbError || imported[0].OwnedFd !== imported[2].OwnedFd)
    throw new Error('entries do not share their classes')
  const { defineSection, codec } = imported[0]
  const msgpack = defineSection({ version: 1, codec: codec.msgpack() }).codec
  if (msgpack.decode(msgpack.encode({ a: [1] })).a[0] !== 1) throw new Error('codec.msgpack does not work')
  console.log('loaded')
})
`,
  )
  const { code, text } = await project.run(['node', program])
  return code === 0 && text.trim() === 'loaded' ? [] : [`exit code ${code}: ${text}`]
}
