import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import { perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Desk } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

describe('fd-broker serve', () => {
  it.each(perLane(['SIGINT'] as const, ['SIGTERM', 'SIGINT'] as const))(
    'says where it listens, answers status, ends on %s with exit code 0',
    async signal => {
      const desk = Desk.open()
      const running = desk.run('serve', '--control', desk.control, '--log-level', 'error')
      const { pid } = await desk.statusWhere('the daemon listens', ({ hosting }) => hosting === 'daemon')
      const { code, stdout } = await desk.run('status', '--control', desk.control)
      expect(code).toBe(0)
      expect(stdout).toMatch(/^daemon +0 services$/m)

      signalPid(pid, signal)
      expect(await running).toEqual({
        code: 0,
        stdout: `fd-broker (pid ${pid}) listens on ${desk.control}\n`,
        stderr: '',
      })
      expect((await desk.run('status', '--control', desk.control)).stderr).toMatch(/^ERR_FDB_NO_HOLDER: /)
    },
  )

  it('tells its services apart: status shows each, upgrade replaces the one that is named', async () => {
    const desk = Desk.open()
    await desk.serve('--control', desk.control, '--log-level', 'warn')
    const started = new Map<string, number>()
    for (const service of ['shop', 'mail']) {
      started.set(service, await desk.launch([process.execPath, MEMBER, desk.control, service]))
    }
    const whole = async () => (await desk.status()) as unknown as DaemonStatus
    const daemon = await until(
      'both members serve',
      async () => {
        const now = await whole().catch(() => null)
        return now?.services.filter(({ role }) => role === 'serving').length === 2 ? now : null
      },
      15_000,
      () => desk.output,
    )
    for (const { service, pid, generation, listeners } of daemon.services) {
      expect({ pid, generation }).toEqual({ pid: started.get(service!), generation: 1 })
      expect(listeners).toEqual([expect.objectContaining({ name: 'web', accepting: true })])
    }

    const vague = await desk.run('upgrade', '--control', desk.control)
    expect(vague.code).toBe(3)
    expect(vague.stderr).toMatch(/^ERR_FDB_SERVICE: .*shop/)

    const { code, stdout, stderr } = await desk.run('upgrade', '--control', desk.control, '--service', 'mail')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(`upgrading mail from generation 1 (pid ${started.get('mail')})\n`)
    expect(stdout).toMatch(/^generation 2 \(pid \d+\) serves, after \d+ ms$/m)
    const after = (await whole()).services
    expect(after.find(({ service }) => service === 'mail')?.generation).toBe(2)
    expect(after.find(({ service }) => service === 'shop')?.pid).toBe(started.get('shop'))
  })

  it('refuses a control path that another one holds, which goes on', async () => {
    const desk = Desk.open()
    const pid = await desk.shop()
    const { code, stdout, stderr } = await desk.run('serve', '--control', desk.control)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^ERR_FDB_[A-Z_]+: .*/)
    expect(stderr).toContain(desk.control)
    expect(hasEnded(pid)).toBe(false)
    expect((await desk.status()).pid).toBe(pid)
  })
})
