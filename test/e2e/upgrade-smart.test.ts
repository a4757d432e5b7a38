import { cpSync, renameSync, rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { install } from '../processes/installed.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const respond = (body: string) => ({ routes: [{ host: '*', respond: { body } }] })

/** A proxy whose program lies in the folder that a link leads to. */
async function installed() {
  const edge = await Edge.prepare({ ...respond('one'), upgrade: { probation: '0s' } })
  const { folder, control } = edge.sandbox
  for (const name of ['1', '2']) install(join(folder, name))
  const current = join(folder, 'current')
  symlinkSync('1', current)
  const cli = join(current, 'dist/cli.cjs')
  const pid = await edge.sandbox.launch([process.execPath, cli, 'proxy', '--config', edge.file])
  await edge.serving(pid)
  const smart = (...args: string[]) => edge.sandbox.run('upgrade', '--control', control, '--smart', ...args)
  return { edge, folder, current, cli, pid, smart }
}

describe('fd-broker upgrade --smart', () => {
  it('does what has changed asks for: nothing, a reload, or an upgrade, and says why', async () => {
    const { cli, current, edge, folder, pid, smart } = await installed()
    const body = async () => (await ask(edge.url).answer).body
    expect(await smart()).toEqual({ code: 0, stdout: 'nothing has changed\n', stderr: '' })
    expect(JSON.parse((await smart('--json')).stdout)).toMatchObject({ ok: true, done: 'nothing' })

    edge.write(respond('two'))
    expect(await smart()).toEqual({
      code: 0,
      stdout: `the configuration has changed (routes): generation 1 (pid ${pid}) has read it\n`,
      stderr: '',
    })
    expect(await body()).toBe('two')
    // The file says the same when it is written again.
    edge.write()
    expect(await smart()).toMatchObject({ stdout: 'nothing has changed\n' })

    // A change that a reload would not bring in force.
    edge.write({ drain: { timeout: '7s' } })
    const { changes, done, pid: second } = JSON.parse((await smart('--json')).stdout)
    expect({ done, changes }).toEqual({
      done: 'upgrade',
      changes: { code: [], next: ['drain'], configuration: [] },
    })
    expect((await edge.status()).pid).toBe(second)
    expect(await smart()).toMatchObject({ stdout: 'nothing has changed\n' })

    // Hooks too, and when they are removed.
    edge.write({ hooks: { success: 'true' } })
    expect(JSON.parse((await smart('--json')).stdout)).toMatchObject({ done: 'upgrade' })
    edge.write({ hooks: undefined })
    expect(JSON.parse((await smart('--json')).stdout)).toMatchObject({ done: 'upgrade' })

    // A file of the package that was put in the place of another, as installers do: with the same bytes and times.
    cpSync(`${folder}/1/dist/program.cjs`, `${folder}/1/new`, { preserveTimestamps: true })
    renameSync(`${folder}/1/new`, `${folder}/1/dist/program.cjs`)
    const third = await smart()
    expect(third).toMatchObject({ code: 0, stderr: '' })
    expect(third.stdout).toMatch(/^the code has changed \(dist\/program\.cjs\): upgrading\n.*generation 5 /s)

    // Another release, by its link; its configuration with it.
    edge.write(respond('three'))
    unlinkSync(current)
    symlinkSync('2', current)
    const fourth = JSON.parse((await smart('--json')).stdout)
    expect(fourth).toMatchObject({ ok: true, done: 'upgrade', generation: 6 })
    expect(fourth.changes.code).toContain('dist/cli.cjs')
    // For a moment after the Commit the previous version may accept, too.
    await until('the new one answers', async () => (await body()) === 'three')

    // An unreadable file is reported, and nothing is done.
    edge.write({ routes: [{ host: '*', upstream: 'nowhere' }] })
    expect(await smart()).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_CONFIG: .*nowhere/),
    })
    rmSync(cli)
    expect(await smart()).toMatchObject({ code: 1 })
    expect((await edge.status()).generation).toBe(6)
  })

  it('meets a refusal of a service that does not know what it has loaded, and excludes a command', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const refused = await sandbox.run('upgrade', '--control', sandbox.control, '--smart')
    expect(refused).toMatchObject({ code: 5, stdout: '' })
    expect(refused.stderr).toMatch(/^ERR_FDB_COMMAND_UNKNOWN: .*omit --smart/)
    const both = await sandbox.run('upgrade', '--control', sandbox.control, '--smart', '--', 'true')
    expect(both).toMatchObject({ code: 2, stdout: '' })
  })
})
