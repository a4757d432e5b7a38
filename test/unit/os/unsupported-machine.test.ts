import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { compiled } from '../../processes/compiled.js'

const root = join(import.meta.dirname, '../../..')

/** The output of a program that is run with these options of Node's. */
function said(program: string, imported: string, env: NodeJS.ProcessEnv = {}): string {
  const args = ['--import', imported, '--input-type=module', '-e', program]
  const options = { cwd: root, env: { ...process.env, ...env }, encoding: 'utf8' } as const
  const { stdout, stderr } = spawnSync(process.execPath, args, options)
  return stdout.trim() || stderr
}

/** A module that makes Node look like another program that runs JavaScript. */
function runtime(key: string): string {
  return `data:text/javascript,Object.defineProperty(process, "versions", { value: { ...process.versions, ${key}: "1.2.3" } })`
}

describe('on a machine', () => {
  const JOIN = `
    const { codec, join, parseListenerSpec, runOnce } = await import('fd-broker')
    await import('fd-broker/stores')
    parseListenerSpec('tcp://127.0.0.1:8080')
    codec.json()
    await join({ service: 'a', control: false }).catch(({ code, message }) => console.log(code, message))`

  it('with Windows, the import works, and join() says that it cannot serve', () => {
    const windows = 'data:text/javascript,Object.defineProperty(process, "platform", { value: "win32" })'
    expect(said(JOIN, windows)).toMatch(/^ERR_FDB_PLATFORM .*Windows/)
  })

  it.each([
    ['bun', 'Bun'],
    ['deno', 'Deno'],
  ])('where %s runs the program, the import works, and join() says that it cannot be', (key, name) => {
    expect(said(JOIN, runtime(key))).toMatch(
      new RegExp(
        `^ERR_FDB_PLATFORM fd-broker does not run in ${name} \\(here 1\\.2\\.3\\).*start the program with node`,
      ),
    )
  })

  it('where bun or deno runs the program, fd-broker/auto ends it with exit code 1, unless it is off', () => {
    const auto = `import(${JSON.stringify(join(root, 'dist/auto.js'))}).then(() => console.log('runs'))`
    const file = join(mkdtempSync(join(tmpdir(), 'fdb-runtime-')), 'server.mjs')
    onTestFinished(() => rmSync(dirname(file), { recursive: true }))
    writeFileSync(file, auto)
    const run = (key: string, off: string) =>
      spawnSync(process.execPath, ['--import', runtime(key), file], {
        env: { ...process.env, VITEST: undefined, NODE_ENV: undefined, FD_BROKER_AUTO: off },
        encoding: 'utf8',
      })
    for (const key of ['bun', 'deno']) {
      const { status, stderr } = run(key, 'on')
      expect(stderr).toMatch(/FdbError: fd-broker does not run in (?:Bun|Deno) \(here 1\.2\.3\)/)
      expect(status).toBe(1)
      expect(run(key, 'off').stdout).toBe('runs\n')
    }
  })

  it('without an addon, the import works, and join() and a daemon say what is missing', () => {
    const nothing = 'data:text/javascript,'
    const env = { FD_BROKER_ADDON: '/nowhere/fd_broker.node' }
    const missing =
      /^ERR_FDB_ADDON no addon could be loaded for .*\/nowhere\/fd_broker\.node: there is no such file.*correct FD_BROKER_ADDON/
    expect(said(JOIN, nothing, env)).toMatch(missing)
    const daemon = `
      const { serveDaemon } = await import('fd-broker')
      await serveDaemon({ control: '/nowhere/a.sock' }).catch(({ code, message }) => console.log(code, message))`
    expect(said(daemon, nothing, env)).toMatch(missing)
  })

  it('without memory files that can be sealed, connections are said not to move', () => {
    const program = `
      const { MoveLog } = await import('${compiled('connections/move-log')}')
      try { MoveLog.create() } catch ({ code }) { console.log(code) }`
    const addon = join(root, 'test/fixtures/addon-without-seals.cjs')
    expect(said(program, 'data:text/javascript,', { FD_BROKER_ADDON: addon })).toBe('ERR_FDB_NO_SEALS')
  })
})
