import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '../..')

/** What a program prints that is run with these options of Node's. */
function said(program: string, imported: string, env: NodeJS.ProcessEnv = {}): string {
  const args = ['--import', imported, '--input-type=module', '-e', program]
  const options = { cwd: root, env: { ...process.env, ...env }, encoding: 'utf8' } as const
  const { stdout, stderr } = spawnSync(process.execPath, args, options)
  return stdout.trim() || stderr
}

describe('on a machine', () => {
  it('that is Windows, the import says at once that it cannot be', () => {
    const windows = 'data:text/javascript,Object.defineProperty(process, "platform", { value: "win32" })'
    const program = `await import('fd-broker').catch(({ code, message }) => console.log(code, message))`
    expect(said(program, windows)).toMatch(/^ERR_FDB_PLATFORM .*Windows/)
  })

  it('without memory files that can be sealed, connections are said not to move', () => {
    const program = `
      const { MoveLog } = await import('./src/connections/move-log.js')
      try { MoveLog.create() } catch ({ code }) { console.log(code) }`
    const addon = join(root, 'test/fixtures/addon-without-seals.cjs')
    expect(said(program, 'tsx', { FD_BROKER_ADDON: addon })).toBe('ERR_FDB_NO_SEALS')
  })
})
