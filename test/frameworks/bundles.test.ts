import { copyFileSync, mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { libcOf } from '../../src/kernel/addon.js'
import { Application } from './application.js'
import { installed } from './installed.js'
import { blockOf, commandsOf, pageText } from './page.js'

const PAGE = 'bundles.md'
const ADDON = fileURLToPath(new URL('../../build/Release/fd_broker.node', import.meta.url))
const PREBUILT = `prebuilds/${process.platform}-${process.arch}/fd-broker.${libcOf(process.execPath)}.node`
/** Each bundler with its command, as the page has it. */
const BUNDLERS = [...pageText(PAGE).matchAll(/^\| (\w+) \| `(npx .+)` \|$/gm)].map(
  ([, name, command]) => [name!, command!] as const,
)
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('bundlers/', import.meta.url)))
}, 300_000)

it('docs/bundles.md has a command for each bundler, and shows where the addon goes', () => {
  expect(BUNDLERS.map(([name]) => name)).toEqual(['esbuild', 'rolldown', 'rollup', 'webpack', 'ncc'])
  expect(commandsOf(PAGE)).toEqual(['cp -r node_modules/fd-broker/prebuilds out/', 'node out/server.cjs'])
})

/** The addon beside the bundle, and no package any more. */
function putAddon({ folder }: Application): void {
  const addon = join(folder, 'out', PREBUILT)
  mkdirSync(dirname(addon), { recursive: true })
  copyFileSync(ADDON, addon)
  rmSync(join(folder, 'node_modules'))
}

describe('docs/bundles.md: a server is upgraded three times under load, and no request fails, bundled by', () => {
  it.each(BUNDLERS)('%s', async (name, command) => {
    const application = await Application.with({ 'server.mjs': blockOf(PAGE, 'server.mjs') }, modules)
    const bundled = await application.run(command)
    expect(bundled.code, bundled.stdout + bundled.stderr).toBe(0)
    putAddon(application)
    const service = await application.serve('node', name === 'ncc' ? 'out/index.mjs' : 'out/server.cjs')
    await application.underLoad(async generation => expect(await service.upgrade()).toBe(generation))
    await application.stop()
    expect(application.sandbox.output).toBe('')
  })
})

it('docs/bundles.md: a single executable of such a bundle is upgraded three times under load, and no request fails', async () => {
  const application = await Application.with({ 'server.mjs': blockOf(PAGE, 'server.mjs') }, modules)
  const [, command] = BUNDLERS[0]!
  application.write('sea.json', '{ "main": "out/server.cjs", "output": "out/shop.blob" }')
  const fuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
  for (const line of [
    command,
    'node --experimental-sea-config sea.json',
    `cp ${process.execPath} out/shop`,
    `npx postject out/shop NODE_SEA_BLOB out/shop.blob --sentinel-fuse ${fuse}`,
  ]) {
    const { code, stdout, stderr } = await application.run(line)
    expect(code, stdout + stderr).toBe(0)
  }
  putAddon(application)
  const service = await application.serve('out/shop')
  await application.underLoad(async generation => expect(await service.upgrade()).toBe(generation))
  await application.stop()
})
