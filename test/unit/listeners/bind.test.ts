import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync, readdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { inspectOne, type OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import {
  bindFirstOfGroup,
  bindListener,
  formatAddress,
  parseListenerSpec,
} from '../../../src/listeners/index.js'
import { bundled } from '../../processes/bundled.js'

const fds: OwnedFd[] = []
const folders: string[] = []

afterEach(async () => {
  for (const fd of fds.splice(0)) fd.close()
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
})

async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'fdb-'))
  folders.push(folder)
  return folder
}

function bind(text: string): OwnedFd {
  const fd = bindListener(parseListenerSpec(text))
  fds.push(fd)
  return fd
}

function refusal(text: string): FdbError {
  try {
    bind(text)
  } catch (error) {
    if (FdbError.is(error)) return error as FdbError
    throw error
  }
  throw new Error('it bound')
}

describe('bindListener', () => {
  it.each(['tcp://127.0.0.1:0', 'tcp://[::1]:0', 'tcp://*:0'])('listens on %s', async text => {
    const fd = bind(text)
    const seen = inspectOne(fd)
    expect(seen).toMatchObject({ accepting: true, socketType: 'stream', reuseAddr: true })
    const client = createConnection({ host: text.includes('[::1]') ? '::1' : '127.0.0.1', port: seen.port! })
    await once(client, 'connect')
    client.destroy()
    expect(fd.label).toContain('tcp://')
  })

  it('binds udp', () => {
    expect(inspectOne(bind('udp://127.0.0.1:0'))).toMatchObject({ socketType: 'dgram', accepting: false })
  })

  it.each(['tcp', 'udp'])('names the process that holds a %s port', kind => {
    const address = formatAddress(inspectOne(bind(`${kind}://127.0.0.1:0`)))
    for (const wanted of [address, address.replace('127.0.0.1', '0.0.0.0')]) {
      const error = refusal(wanted)
      expect(error.code).toBe('ERR_FDB_ADDRESS_IN_USE')
      expect(error.details).toMatchObject({ pid: process.pid, address: wanted })
      expect(error.message).toMatch(
        new RegExp(
          `is held by process ${process.pid} \\(.*\\)\\. That is this process: use that listener, or choose another address\\.$`,
        ),
      )
      expect(error.retryable).toBe(true)
    }
    expect(refusal(formatAddress(inspectOne(bind(`${kind}://[::1]:0`)))).details.pid).toBe(process.pid)
  })

  it('names another process that listens, by pid and command', async () => {
    const path = join(await makeFolder(), 's')
    const child = spawn(
      process.execPath,
      ['-e', `require('node:net').createServer().listen(${JSON.stringify(path)}, () => console.log('up'))`],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    try {
      await once(child.stdout!, 'data')
      const error = refusal(`unix:${path}`)
      expect(error.code).toBe('ERR_FDB_ADDRESS_IN_USE')
      expect(error.details).toMatchObject({ pid: child.pid })
      expect(error.details.command).toContain('createServer')
    } finally {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
    // Killed, it left its path behind: the next one takes it.
    expect(lstatSync(path).isSocket()).toBe(true)
    expect(inspectOne(bind(`unix:${path}`))).toMatchObject({ address: path, accepting: true })
  })

  it('names the holder of an abstract name', () => {
    const text = `unix:@fdb-bind-${process.pid}`
    bind(text)
    expect(refusal(text).details).toMatchObject({ pid: process.pid, address: text })
  })

  it('takes no abstract name for a path, though there is a file of that name', async () => {
    const file = join(await makeFolder(), 'file')
    writeFileSync(file, 'not ours')
    const text = `unix:@${relative(process.cwd(), file)}`
    bind(text)
    expect(refusal(text).code).toBe('ERR_FDB_ADDRESS_IN_USE')
    expect(existsSync(file)).toBe(true)
  })
})

describe('Unix paths', () => {
  it('get their mode', async () => {
    const path = join(await makeFolder(), 's')
    bind(`unix:${path}?mode=0606`)
    expect(lstatSync(path).mode & 0o777).toBe(0o606)
  })

  /** The mode that the path has when the kernel ends the process that binds it, as it makes this system call. */
  const modeAt = async (
    call: 'chmod' | 'fchownat' | 'listen',
    options: object,
    umask: string,
  ): Promise<number> => {
    const path = join(await makeFolder(), 's')
    const child = (name: string) => fileURLToPath(new URL(`../../native/children/${name}`, import.meta.url))
    const command = [process.execPath, child('bind.mjs'), path, JSON.stringify(options), umask]
    const { signal, stdout, stderr } = spawnSync('python3', [child('killed-at.py'), call, ...command], {
      encoding: 'utf8',
    })
    expect({ signal, stdout, stderr }).toEqual({ signal: 'SIGSYS', stdout: '', stderr: '' })
    return lstatSync(path).mode & 0o777
  }

  it('begin with no more rights than asked for, before their mode is set', async () => {
    expect(await modeAt('chmod', { mode: 0o640 }, '000')).toBe(0o640)
  })

  it('begin with no rights for group and others while the owner is not the right one', async () => {
    expect(await modeAt('fchownat', { mode: 0o666, uid: process.getuid!() }, '000')).toBe(0o600)
  })

  it('have their mode, whatever the umask, before anybody can connect', async () => {
    expect(await modeAt('listen', { mode: 0o666 }, '077')).toBe(0o666)
    expect(await modeAt('listen', { mode: 0o666, uid: process.getuid!() }, '077')).toBe(0o666)
  })

  it('make way if stale, and the kernel knows the new socket by its path', async () => {
    const folder = await makeFolder()
    const path = join(folder, 's')
    bind(`unix:${path}`).close()
    const fd = bind(`unix:${path}?mode=0600`)
    expect(formatAddress(inspectOne(fd))).toBe(`unix:${path}`)
    expect(readdirSync(folder)).toEqual(['s'])
    native.close(native.connectUnix(path, false))
  })

  it('go to exactly one of several processes that find them stale', async () => {
    const folder = await makeFolder()
    const path = join(folder, 's')
    const { file, env } = bundled('../native/children/contend.ts')
    const children = Array.from({ length: 4 }, () =>
      spawn(process.execPath, [file, path], { env, stdio: ['pipe', 'pipe', 'inherit'] }),
    )
    const all = async (order?: string) => {
      const answers = children.map(child => once(child.stdout, 'data').then(([data]) => String(data).trim()))
      if (order !== undefined) for (const child of children) child.stdin.write(`${order}\n`)
      return (await Promise.all(answers)).toSorted()
    }
    await all()
    for (let round = 0; round < 100; round++) {
      bind(`unix:${path}`).close()
      expect(await all('bind')).toEqual([...Array(3).fill('ERR_FDB_ADDRESS_IN_USE'), 'bound'])
      expect(readdirSync(folder)).toEqual(['s'])
      native.close(native.connectUnix(path, false))
      await all('close')
    }
    const exits = children.map(child => once(child, 'exit'))
    for (const child of children) child.stdin.end()
    await Promise.all(exits)
  })

  it('stay while alive, also with a full backlog', async () => {
    const path = join(await makeFolder(), 's')
    const text = `unix:${path}?backlog=1`
    bind(text)
    const before = lstatSync(path).ino
    for (let i = 0; i < 4; i++) expect(refusal(text).code).toBe('ERR_FDB_ADDRESS_IN_USE')
    expect(lstatSync(path).ino).toBe(before)
  })

  it('stay if bound without listening yet', async () => {
    const path = join(await makeFolder(), 's')
    const raw = native.bindSocket({ kind: 'unix', host: path })
    const error = refusal(`unix:${path}`)
    expect(error).toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE', details: { pid: process.pid } })
    native.listen(raw, 1)
    native.close(native.connectUnix(path, false))
    native.close(raw)
  })

  it('count as stale when only accepted connections of their old listener live on', async () => {
    const path = join(await makeFolder(), 's')
    const old = bind(`unix:${path}`)
    const client = native.connectUnix(path, false)
    const accepted = native.accept(old.raw)
    old.close()
    bind(`unix:${path}`)
    native.closeMany([client, accepted])
  })

  it('stay if they are no sockets', async () => {
    const path = join(await makeFolder(), 'file')
    writeFileSync(path, 'precious')
    const error = refusal(`unix:${path}`)
    expect(error).toMatchObject({ code: 'ERR_FDB_SPEC', details: { part: 'path' } })
    expect(lstatSync(path).isFile()).toBe(true)
  })

  it('in a missing folder are explained', () => {
    const error = refusal('unix:/no/such/folder/s')
    expect(error).toMatchObject({ code: 'ERR_FDB_BIND', details: { errno: 'ENOENT' } })
    expect(error.message).toContain('folder')
  })
})

describe('failures', () => {
  it('of a foreign address says what to use', () => {
    const error = refusal('tcp://192.0.2.1:0')
    expect(error).toMatchObject({ code: 'ERR_FDB_BIND', details: { errno: 'EADDRNOTAVAIL' } })
  })

  it('of a low port or a folder without the right to write names the remedy', async () => {
    const folder = await makeFolder()
    const { file, env } = bundled('../native/children/denied.ts')
    const child = spawnSync(process.execPath, [file, join(folder, 's')], { env, encoding: 'utf8' })
    expect(child.stderr).toBe('')
    const [low, path] = JSON.parse(child.stdout)
    if (low !== null) expect(low).toMatch(/^ERR_FDB_BIND_DENIED .*CAP_NET_BIND_SERVICE/)
    expect(path).toMatch(/^ERR_FDB_BIND_DENIED .*folder must be writable/)
    expect(existsSync(join(folder, 's'))).toBe(false)
  })
})

describe('bindFirstOfGroup', () => {
  const first = (text: string) => {
    const fd = bindFirstOfGroup(parseListenerSpec(text))
    fds.push(fd)
    return fd
  }

  it('binds where nobody is, and others of its group beside it', () => {
    const { port, reusePort, accepting } = inspectOne(first('tcp://127.0.0.1:0?reusePort'))
    expect({ reusePort, accepting }).toEqual({ reusePort: true, accepting: true })
    expect(inspectOne(bind(`tcp://127.0.0.1:${port}?reusePort`)).port).toBe(port)
  })

  it.each(['', '?reusePort'])('refuses to bind where another is, which has bound with "%s"', options => {
    const { port } = inspectOne(bind(`tcp://127.0.0.1:0${options}`))
    expect(() => first(`tcp://127.0.0.1:${port}?reusePort`)).toThrow(/is held by process/)
  })

  it('keeps away who does not share', () => {
    const { port } = inspectOne(first('tcp://127.0.0.1:0?reusePort'))
    expect(refusal(`tcp://127.0.0.1:${port}`).code).toBe('ERR_FDB_ADDRESS_IN_USE')
  })
})
