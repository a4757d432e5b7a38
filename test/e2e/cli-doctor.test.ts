import { chmodSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { Finding } from '../../src/cli/doctor.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

/** The report, with these variables in the environment. */
async function doctor(sandbox: Sandbox, env: Record<string, string> = {}, ...args: string[]) {
  const variables = Object.entries({ ...env, NOTIFY_SOCKET: '', ...env }).map(pair => pair.join('='))
  const command = ['env', ...variables, process.execPath, CLI, 'doctor', '--json']
  const { code, stdout } = await sandbox.runCommand([...command, ...args])
  const { ok, findings } = JSON.parse(stdout) as { ok: boolean; findings: Finding[] }
  expect(code).toBe(ok ? 0 : 1)
  return { ok, of: (name: string) => findings.find(finding => finding.name === name) }
}

describe('fd-broker doctor', () => {
  it('says what works here, and leaves nothing behind', async () => {
    const sandbox = Sandbox.open()
    const folder = join(sandbox.folder, 'new')
    const { ok, of } = await doctor(sandbox, {}, '--control', join(folder, 'upgrade.sock'))
    expect(ok).toBe(true)
    for (const name of [
      'Node',
      'system',
      'addon',
      'descriptors over Unix sockets',
      'control socket',
      '/proc',
    ])
      expect(of(name)).toMatchObject({ status: 'ok' })
    expect(existsSync(folder)).toBe(false)
  })

  it('says whether WebSockets of ws and sessions of socket.io move with the releases of the program in this folder', async () => {
    const inFolder = async (install: (modules: string) => void) => {
      const sandbox = Sandbox.open()
      const modules = join(sandbox.folder, 'node_modules')
      mkdirSync(modules)
      install(modules)
      const command = `cd ${sandbox.folder} && exec ${process.execPath} ${CLI} doctor --json`
      const { stdout } = await sandbox.runCommand(['sh', '-c', command])
      const { findings } = JSON.parse(stdout) as { findings: Finding[] }
      return ['ws', 'socket.io'].map(name => findings.find(finding => finding.name === name))
    }
    const ours = fileURLToPath(new URL('../../node_modules/', import.meta.url))
    const [ws, io] = await inFolder(modules => {
      for (const name of ['ws', 'socket.io']) symlinkSync(join(ours, name), join(modules, name))
    })
    expect([ws, io]).toMatchObject([{ status: 'ok' }, { status: 'ok' }])
    const others = await inFolder(modules => {
      for (const [name, made] of [
        ['ws', 'WebSocketServer'],
        ['socket.io', 'Server'],
      ] as const) {
        mkdirSync(join(modules, name))
        const text = `exports.${made} = class { constructor(options) { this.options = options } async close() {} }`
        writeFileSync(join(modules, name, 'index.js'), text)
      }
    })
    expect(others).toMatchObject([
      { status: 'warning', remedy: expect.stringMatching(/^install ws 8\.18 to/) },
      { status: 'warning', remedy: expect.stringMatching(/^install socket\.io 4\.8, or/) },
    ])
  })

  it('fails, with the remedy, where the addon cannot be loaded', async () => {
    const { ok, of } = await doctor(Sandbox.open(), { FD_BROKER_ADDON: '/nowhere' })
    expect(ok).toBe(false)
    expect(of('addon')).toMatchObject({
      status: 'failed',
      found: expect.stringMatching(
        /^ERR_FDB_ADDON: .*\/nowhere: there is no such file.*correct FD_BROKER_ADDON/,
      ),
    })
  })

  it('fails where the control socket cannot be made: a folder that is open to others, missing, a path that is too long, or a file', async () => {
    const sandbox = Sandbox.open()
    const open = join(sandbox.folder, 'open')
    mkdirSync(open)
    chmodSync(open, 0o777)
    const file = join(sandbox.folder, 'file')
    writeFileSync(file, '')
    for (const [path, why] of [
      [join(open, 'a.sock'), /may be written to by others.*mode 0700/],
      [join(sandbox.folder, 'a/b/c.sock'), /create its parent folder first/],
      [join(sandbox.folder, `${'long'.repeat(30)}.sock`), /ERR_FDB_PATH_TOO_LONG/],
      [file, /exists and is not a socket/],
      [join(file, 'a.sock'), /there is a file of that name/],
    ] as const) {
      const { ok, of } = await doctor(sandbox, {}, '--control', path)
      expect(ok).toBe(false)
      expect(of('control socket')).toMatchObject({ status: 'failed', found: expect.stringMatching(why) })
    }
  })

  it('tries the longest path under a name that is no longer', async () => {
    const sandbox = Sandbox.open()
    const folder = join(
      sandbox.folder,
      'l'.repeat(106 - sandbox.folder.length - '/'.length - '/a.sock'.length),
    )
    mkdirSync(folder, { mode: 0o700 })
    const { of } = await doctor(sandbox, {}, '--control', join(folder, 'a.sock'))
    expect(of('control socket')).toMatchObject({ status: 'ok' })
    expect(readdirSync(folder)).toEqual([])
  })

  it('warns of a user without a folder for control sockets: only a service of fd-broker start has a path, from the name of the package', async () => {
    const sandbox = Sandbox.open()
    const temporary = join(sandbox.folder, 'temporary')
    mkdirSync(temporary)
    chmodSync(temporary, 0o1777)
    chmodSync(sandbox.folder, 0o755)
    const name = `shop-${sandbox.folder.slice(-6)}`
    writeFileSync(join(sandbox.folder, 'package.json'), JSON.stringify({ name }))
    const user =
      process.geteuid?.() === 0 ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'] : []
    const { code, stdout } = await sandbox.runCommand([
      ...['sh', '-c', `cd ${sandbox.folder} && exec "$@"`, 'sh', ...user],
      ...['env', '-u', 'RUNTIME_DIRECTORY', '-u', 'XDG_RUNTIME_DIR', `TMPDIR=${temporary}`],
      ...[process.execPath, CLI, 'doctor', '--json'],
    ])
    const { findings } = JSON.parse(stdout) as { findings: Finding[] }
    expect([code, findings.find(({ name }) => name === 'control socket')]).toEqual([
      0,
      {
        name: 'control socket',
        status: 'warning',
        found: expect.stringMatching(
          /temporary\/fd-broker-\d+\/shop-\w+\.sock can be created: fd-broker start .* use it; join\(\) .*ERR_FDB_CONTROL_PATH/,
        ),
        remedy: expect.stringContaining('create /run/fd-broker'),
      },
    ])
    expect(readdirSync(temporary)).toEqual([])
  })

  it('warns of a user without a folder for the log of fd-broker start', async () => {
    const sandbox = Sandbox.open()
    chmodSync(sandbox.folder, 0o755)
    const user =
      process.geteuid?.() === 0 ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'] : []
    const logCheck = async (state: string) => {
      const env = ['env', `XDG_STATE_HOME=${state}`, process.execPath, CLI]
      const { stdout } = await sandbox.runCommand([...user, ...env, 'doctor', '--service', 'shop', '--json'])
      return (JSON.parse(stdout) as { findings: Finding[] }).findings.find(({ name }) => name === 'log file')
    }
    expect(await logCheck('/proc/nowhere')).toEqual({
      name: 'log file',
      status: 'warning',
      found: '/proc/nowhere/fd-broker/shop.log cannot be created: this user cannot write to /proc',
      remedy: 'give fd-broker start a --log-file, or set XDG_STATE_HOME to a folder of this user',
    })
    const own = join(sandbox.folder, 'own')
    mkdirSync(own)
    chmodSync(own, 0o777)
    expect(await logCheck(own)).toMatchObject({ status: 'ok' })
    expect(readdirSync(own)).toEqual([])
  })

  it.runIf(process.geteuid?.() === 0)(
    'warns of a user without a home folder, as of a container',
    async () => {
      const sandbox = Sandbox.open()
      const user = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups']
      const env = ['env', '-u', 'HOME', '-u', 'XDG_STATE_HOME', process.execPath, CLI]
      const { stdout } = await sandbox.runCommand([...user, ...env, 'doctor', '--service', 'shop', '--json'])
      const { findings } = JSON.parse(stdout) as { findings: Finding[] }
      expect(findings.find(({ name }) => name === 'log file')).toEqual({
        name: 'log file',
        status: 'warning',
        found:
          'ERR_FDB_OPTION: user 12345 has no home folder, and so no default log file: give --log-file, or set HOME or XDG_STATE_HOME',
      })
    },
  )

  it('warns where memory cannot be sealed, where there are no pidfds, and of few descriptors', async () => {
    const sandbox = Sandbox.open()
    const control = ['--control', join(sandbox.folder, 'a.sock')]
    const unsealed = await doctor(
      sandbox,
      { FD_BROKER_ADDON: fixture('addon-without-seals.cjs') },
      ...control,
    )
    expect(unsealed.ok).toBe(true)
    expect(unsealed.of('sealed memory')).toMatchObject({
      status: 'warning',
      remedy: expect.stringMatching(/allow memfd_create/),
    })
    const blind = await doctor(sandbox, { FD_BROKER_ADDON: fixture('addon-without-pidfds.cjs') }, ...control)
    expect(blind.of('pidfd')).toMatchObject({
      status: 'warning',
      found: expect.stringMatching(/fd-broker exec fails$/),
    })
    const words = `ulimit -n 256; exec ${process.execPath} ${CLI} doctor ${control.join(' ')}`
    const few = await sandbox.runCommand(['bash', '-c', words])
    expect(few.code).toBe(0)
    expect(few.stdout).toMatch(/^warning {2}limit on descriptors: 256 .*\n +raise it: LimitNOFILE=65536/m)
    expect(few.stdout).toMatch(/\n\nUpgrades work here, with 1 warning\.\n$/)
  })

  it('sees systemd and pm2 by the environment', async () => {
    const sandbox = Sandbox.open()
    const env = { NOTIFY_SOCKET: '/run/systemd/notify', FDSTORE: '16', pm_id: '0' }
    const { ok, of } = await doctor(sandbox, env, '--control', join(sandbox.folder, 'a.sock'))
    expect(of('systemd')).toMatchObject({
      status: 'ok',
      found: expect.stringMatching(/up to 16 descriptors/),
    })
    expect(of('pm2')).toMatchObject({ status: 'note' })
    expect(ok).toBe(true)
  })

  it('colours its text on a terminal alone, and not with NO_COLOR', async () => {
    const sandbox = Sandbox.open()
    const onTerminal = (words: string) => sandbox.runCommand(['script', '-qec', words, '/dev/null'])
    const words = `${process.execPath} ${CLI} doctor --control ${join(sandbox.folder, 'a.sock')}`
    expect((await onTerminal(`TERM=xterm ${words}`)).stdout).toContain('\x1b[32mok')
    expect((await onTerminal(`NO_COLOR=1 ${words}`)).stdout).not.toContain('\x1b[')
    expect((await sandbox.runCommand(['bash', '-c', words])).stdout).not.toContain('\x1b[')
  })
})
