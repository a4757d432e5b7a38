import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** A command on a terminal of its own with 80 columns and 24 rows. */
function openTop(sandbox: Sandbox, command = 'top --interval 100ms') {
  const words = `stty cols 80 rows 24; TERM=xterm exec ${process.execPath} ${CLI} ${command} --control ${sandbox.control}`
  const child = spawn('script', ['-qec', words, '/dev/null'], { env: sandbox.env })
  onTestFinished(() => void child.kill('SIGKILL'))
  let output = ''
  child.stdout.setEncoding('utf8').on('data', text => (output += text))
  const ended = new Promise<number | null>(resolve => child.once('close', resolve))
  return {
    ended,
    press: (key: string) => void child.stdin.write(key),
    /** The lines of the last whole screen. */
    get screen(): string[] {
      const last = output.split('\x1b[H').findLast(text => text.includes('\x1b[J')) ?? ''
      return last.split('\r\n').map(line => stripVTControlCharacters(line))
    },
    get output(): string {
      return output
    },
    shows(what: RegExp): Promise<unknown> {
      return until(
        `the screen shows ${what}`,
        () => what.test(this.screen.join('\n')),
        20_000,
        () => this.screen.join('\n'),
      )
    },
  }
}

describe('fd-broker top', () => {
  it('upgrades and stops after a confirmation, and gives the terminal back', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const top = openTop(sandbox)
    await top.shows(new RegExp(`pid +${pid}`))
    await top.shows(/u upgrade {3}r roll back {3}s stop {3}q quit/)
    for (const line of top.screen) expect([...line].length).toBeLessThanOrEqual(80)
    expect(top.screen.length).toBeLessThanOrEqual(24)

    top.press('u')
    await top.shows(/upgrade: are you sure\?/)
    top.press('n')
    await top.shows(/u upgrade/)
    expect(await sandbox.status()).toMatchObject({ pid, generation: 1 })

    top.press('u')
    await top.shows(/upgrade: are you sure\?/)
    top.press('y')
    await top.shows(/upgrade: done/)
    await top.shows(/generation +2/)
    expect(await sandbox.status()).toMatchObject({ generation: 2 })

    top.press('s')
    await top.shows(/stop: are you sure\?/)
    top.press('y')
    await top.shows(/stop: done/)
    await top.shows(/ERR_FDB_NO_HOLDER/)
    top.press('q')
    expect(await top.ended).toBe(0)
    expect(top.output.endsWith('\x1b[?25h\x1b[?1049l')).toBe(true)
  })

  it('shows why an order has failed, and cancels one at Ctrl-C', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const top = openTop(sandbox)
    await top.shows(/u upgrade/)
    top.press('r')
    await top.shows(/rollback: are you sure\?/)
    top.press('y')
    await top.shows(/ERR_FDB_NO_STANDBY[\s\S]*rollback failed \(exit code \d+\)/)
    top.press('\x03')
    expect(await top.ended).toBe(0)
  })

  it('needs a terminal', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const { code, stderr } = await sandbox.run('top', '--control', sandbox.control)
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringContaining(
        'fd-broker top needs a terminal; a program reads fd-broker status --json',
      ),
    })
  })
})

describe('fd-broker status --watch', () => {
  it('shows the status of each version on the terminal, until Ctrl-C', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const watch = openTop(sandbox, 'status --watch')
    await watch.shows(/generation +1/)
    await sandbox.run('upgrade', '--control', sandbox.control)
    await watch.shows(/generation +2/)
    await sandbox.run('stop', '--control', sandbox.control)
    await watch.shows(/ERR_FDB_NO_HOLDER/)
    watch.press('\x03')
    expect(await watch.ended).toBe(130)
  })

  it('writes each answer as a line of JSON, and ends when its reader does', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const words = `${process.execPath} ${CLI} status --watch --json --control ${sandbox.control} | head -n 2`
    const child = spawn('sh', ['-c', words], { env: sandbox.env, stdio: ['ignore', 'pipe', 'inherit'] })
    onTestFinished(() => void child.kill('SIGKILL'))
    const lines = (await text(child.stdout)).trimEnd().split('\n')
    expect(lines.map(line => JSON.parse(line).pid)).toEqual([pid, pid])
  })
})
