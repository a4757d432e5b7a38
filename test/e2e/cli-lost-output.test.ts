import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, readlinkSync, symlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { CLI, Sandbox, urlOf, whoami } from './cli-processes.js'

/** Runs `fd-broker …`, whose stdout has lost its reader before the first line, as in `fd-broker upgrade | true`. */
function withoutReader(
  sandbox: Sandbox,
  ...args: string[]
): Promise<{ code: number | null; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [CLI, ...args], { env: sandbox.env, timeout: 120_000 })
    child.stdout.destroy()
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', text => (stderr += text))
    child.once('error', reject)
    child.once('close', code => resolve({ code, stderr }))
  })
}

describe('the output of a command whose reader has gone', () => {
  it('a failed upgrade still ends with 1, and restores the release that it has replaced', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const url = urlOf(await sandbox.status())
    const [old, next, link] = ['old', 'next', 'current'].map(name => sandbox.file(name)) as [
      string,
      string,
      string,
    ]
    mkdirSync(old)
    mkdirSync(next)
    symlinkSync(old, link)
    const failing = [process.execPath, '-e', 'setTimeout(() => process.exit(3), 500)']
    const release = ['--binary', next, '--at', link]
    const order = ['upgrade', '--control', sandbox.control, ...release, '--', ...failing]
    const { code, stderr } = await withoutReader(sandbox, ...order)
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_SUCCESSOR_EXITED: .*code 3/),
    })
    expect(readlinkSync(link)).toBe(old)
    expect(await whoami(url)).toEqual({ generation: 1, pid })
    expect((await withoutReader(sandbox, ...order.toSpliced(1, 0, '--json'))).code).toBe(1)
  })

  it('an upgrade ends with 0 when the next version serves, and has written its timeline', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const picture = sandbox.file('upgrade.svg')
    const { code } = await withoutReader(
      sandbox,
      'upgrade',
      '--control',
      sandbox.control,
      '--timeline',
      picture,
    )
    expect(code).toBe(0)
    expect((await sandbox.status()).generation).toBe(2)
    expect(readFileSync(picture, 'utf8')).toMatch(/<\/svg>\s*$/)
  })

  it('a full disk for the output leaves an order its exit code', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const command = [process.execPath, CLI, 'upgrade', '--control', sandbox.control]
    expect(await sandbox.runCommand(['sh', '-c', 'exec "$@" >/dev/full', 'sh', ...command])).toEqual({
      code: 0,
      stdout: '',
      stderr: 'stdout cannot be written: ENOSPC: no space left on device, write\n',
    })
    expect((await sandbox.status()).generation).toBe(2)
  })

  it('a question ends with its reader', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    expect((await withoutReader(sandbox, 'status', '--watch', '--control', sandbox.control)).code).toBe(0)
  })
})
