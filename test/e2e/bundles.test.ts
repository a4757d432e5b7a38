import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build as esbuild } from 'esbuild'
import { build as rolldown } from 'rolldown'
import { describe, expect, it } from 'vitest'
import { libcOf } from '../../src/kernel/addon.js'
import { perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const APP = fileURLToPath(new URL('../fixtures/app-bundled.mjs', import.meta.url))
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ADDON = fileURLToPath(new URL('../../build/Release/fd_broker.node', import.meta.url))

/** The place of the addon of this machine, below the folder of a bundle. */
const PREBUILT = `prebuilds/${process.platform}-${process.arch}/fd-broker.${libcOf(process.execPath)}.node`

type Format = 'cjs' | 'esm'

/** Each bundles `app.mjs` of the folder into a file there, and returns its warnings. */
const BUNDLERS: Record<string, (folder: string, file: string, format: Format) => Promise<readonly string[]>> =
  {
    esbuild: async (folder, file, format) => {
      const options = { bundle: true, platform: 'node', format, logLevel: 'silent' } as const
      const { warnings } = await esbuild({
        ...options,
        entryPoints: [join(folder, 'app.mjs')],
        outfile: join(folder, file),
        minify: format === 'cjs',
      })
      return warnings.map(({ text }) => text)
    },
    rolldown: async (folder, file, format) => {
      const warnings: string[] = []
      await rolldown({
        input: join(folder, 'app.mjs'),
        platform: 'node',
        output: { file: join(folder, file), format, codeSplitting: false },
        onLog: (_level, { message }) => warnings.push(message),
      })
      return warnings
    },
  }

/** A folder with the program, and the package installed; the bundle runs in the folder above, without it. */
function application(sandbox: Sandbox): string {
  const folder = join(sandbox.folder, 'shop')
  mkdirSync(join(folder, 'node_modules'), { recursive: true })
  symlinkSync(ROOT, join(folder, 'node_modules/fd-broker'))
  copyFileSync(APP, join(folder, 'app.mjs'))
  return folder
}

describe.each(Object.keys(BUNDLERS))('a server that %s has bundled', name => {
  const files: readonly [Format, string][] = [
    ['cjs', 'server.cjs'],
    ['esm', 'server.mjs'],
  ]
  // The gate has one format of each bundler.
  it.each(perLane(files.slice(name === 'esbuild' ? 0 : 1).slice(0, 1), files.slice()))(
    'as %s is upgraded, with its state, and finds the addon below its folder',
    async (format, file) => {
      const sandbox = Sandbox.open()
      const bundle = join(sandbox.folder, file)
      expect(await BUNDLERS[name]!(application(sandbox), file, format)).toEqual([])
      copyFileSync(join(sandbox.folder, 'shop', file), bundle)
      expect(readFileSync(bundle, 'utf8')).not.toContain(ROOT)
      mkdirSync(join(sandbox.folder, PREBUILT, '..'), { recursive: true })
      copyFileSync(ADDON, join(sandbox.folder, PREBUILT))
      const port = await freePort()
      await sandbox.launch([process.execPath, bundle, sandbox.control, `tcp://127.0.0.1:${port}`])
      const visit = async () => (await ask(`http://127.0.0.1:${port}`).answer.catch(() => null))?.body
      await until(
        'it answers',
        async () => (await visit()) !== undefined,
        10_000,
        () => sandbox.output,
      )
      expect(await visit()).toBe('generation 1, visit 2\n')
      expect(await sandbox.run('upgrade', '--control', sandbox.control)).toMatchObject({ code: 0 })
      expect(await visit()).toBe('generation 2, visit 3\n')
      expect(await sandbox.run('stop', '--control', sandbox.control)).toMatchObject({ code: 0 })
    },
  )
})

describe('a bundle without the addon', () => {
  it('says which files it has tried, and takes the one that FD_BROKER_ADDON names', async () => {
    const sandbox = Sandbox.open()
    const bundle = join(sandbox.folder, 'server.cjs')
    await BUNDLERS.esbuild!(application(sandbox), 'server.cjs', 'cjs')
    copyFileSync(join(sandbox.folder, 'shop/server.cjs'), bundle)
    const words = [process.execPath, bundle, sandbox.control, 'tcp://127.0.0.1:0']
    const { code, stderr } = await sandbox.runCommand(words)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_ADDON no addon could be loaded for .* FD_BROKER_ADDON$/m)
    expect(stderr).toContain(`${join(sandbox.folder, PREBUILT)}: there is no such file`)
    await sandbox.launch(['env', `FD_BROKER_ADDON=${ADDON}`, ...words])
    await sandbox.statusWhere('it serves', ({ role }) => role === 'serving')
  })
})
