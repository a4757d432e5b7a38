import { execFileSync, spawn } from 'node:child_process'
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

describe('fd-broker serve', () => {
  it.each(perLane(['SIGINT'] as const, ['SIGTERM', 'SIGINT'] as const))(
    'says where it listens, answers status, ends on %s with exit code 0',
    async signal => {
      const sandbox = Sandbox.open()
      const running = sandbox.run('serve', '--control', sandbox.control, '--log-level', 'error')
      const { pid } = await sandbox.statusWhere('the daemon listens', ({ hosting }) => hosting === 'daemon')
      const { code, stdout } = await sandbox.run('status', '--control', sandbox.control)
      expect(code).toBe(0)
      expect(stdout).toMatch(/^daemon +0 services$/m)

      signalPid(pid, signal)
      expect(await running).toEqual({
        code: 0,
        stdout: `fd-broker (pid ${pid}) listens on ${sandbox.control}\n`,
        stderr: '',
      })
      expect((await sandbox.run('status', '--control', sandbox.control)).stderr).toMatch(
        /^ERR_FDB_NO_HOLDER: /,
      )
    },
  )

  it.runIf(NIGHTLY)(
    'serves although the reader of its log has stopped, which gets the lines when it reads again',
    async () => {
      const sandbox = Sandbox.open()
      const pipe = join(sandbox.folder, 'log.pipe')
      execFileSync('mkfifo', [pipe])
      const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK)
      const [writer, filler] = [openSync(pipe, 'w'), 'x'.repeat(4096)]
      const isFull = () => {
        try {
          return writeSync(reader, filler) === 0
        } catch {
          return true
        }
      }
      while (!isFull());
      const words = [CLI, 'serve', '--control', sandbox.control]
      const child = spawn(process.execPath, words, { env: sandbox.env, stdio: ['ignore', 'ignore', writer] })
      closeSync(writer)
      onTestFinished(() => {
        child.kill('SIGKILL')
        closeSync(reader)
      })
      await sandbox.statusWhere('the daemon listens', ({ hosting }) => hosting === 'daemon')
      // The first line finds the pipe full. The second status is asked when the daemon has taken the signal.
      child.kill('SIGWINCH')
      for (let i = 0; i < 2; i++)
        expect(await sandbox.run('status', '--control', sandbox.control)).toMatchObject({ code: 0 })
      let text = ''
      const buffer = Buffer.alloc(64 * 1024)
      await until('the log has the line', () => {
        try {
          text += buffer.toString('latin1', 0, readSync(reader, buffer))
        } catch {
          // No byte is there now.
        }
        return text.includes('processes that join wait')
      })
    },
  )

  it.runIf(NIGHTLY)(
    'tells its services apart: status shows each, upgrade replaces the one that is named',
    async () => {
      const sandbox = Sandbox.open()
      await sandbox.serve('--control', sandbox.control, '--log-level', 'warn')
      const started = new Map<string, number>()
      for (const service of ['shop', 'mail']) {
        started.set(service, await sandbox.launch([process.execPath, MEMBER, sandbox.control, service]))
      }
      const whole = async () => (await sandbox.status()) as unknown as DaemonStatus
      const daemon = await until(
        'both members serve',
        async () => {
          const now = await whole().catch(() => null)
          return now?.services.filter(({ role }) => role === 'serving').length === 2 ? now : null
        },
        15_000,
        () => sandbox.output,
      )
      for (const { service, pid, generation, listeners } of daemon.services) {
        expect({ pid, generation }).toEqual({ pid: started.get(service!), generation: 1 })
        expect(listeners).toEqual([expect.objectContaining({ name: 'web', accepting: true })])
      }

      const vague = await sandbox.run('upgrade', '--control', sandbox.control)
      expect(vague.code).toBe(3)
      expect(vague.stderr).toMatch(/^ERR_FDB_SERVICE: .*shop/)

      const { code, stdout, stderr } = await sandbox.run(
        'upgrade',
        '--control',
        sandbox.control,
        '--service',
        'mail',
      )
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain(`upgrading mail from generation 1 (pid ${started.get('mail')})\n`)
      expect(stdout).toMatch(/^generation 2 \(pid \d+\) serves, after \d+ ms$/m)
      const after = (await whole()).services
      expect(after.find(({ service }) => service === 'mail')?.generation).toBe(2)
      expect(after.find(({ service }) => service === 'shop')?.pid).toBe(started.get('shop'))
    },
  )

  it('refuses a control path that another one holds, which goes on', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop()
    const { code, stdout, stderr } = await sandbox.run('serve', '--control', sandbox.control)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^ERR_FDB_[A-Z_]+: .*/)
    expect(stderr).toContain(sandbox.control)
    expect(hasEnded(pid)).toBe(false)
    expect((await sandbox.status()).pid).toBe(pid)
  })
})
