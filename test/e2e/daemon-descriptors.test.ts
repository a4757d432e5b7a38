import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { FdbError } from '../../src/errors.js'
import {
  closeAll,
  inspectOne,
  memoryFile,
  type OwnedFd,
  openFile,
  readAt,
  socketPair,
  writeAllAt,
} from '../../src/kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../../src/listeners/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import type { HeldDescriptor } from '../../src/operator/held-descriptors.js'
import { serveByCommand } from '../processes/daemon.js'
import { openFds } from '../processes/descriptors.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { Scene } from '../processes/scene.js'
import { TRACES_OWN } from '../processes/tracing.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** A daemon as users start it, and an operator. */
async function daemon() {
  const scene = Scene.open({ hosting: 'daemon' })
  const served = await serveByCommand(scene)
  return { scene, pid: served.pid, control: scene.control, ...(await operator(scene.control)) }
}

async function operator(control: string) {
  const client = await OperatorClient.connect(control)
  onTestFinished(() => client.close())
  return { client, held: client.descriptors }
}

/** A process of its own that lives until the test ends, or it is killed. */
async function other(): Promise<{ pid: number; end: () => Promise<void> }> {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child, 'spawn')
  const end = async () => {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  return { pid: child.pid!, end }
}

const names = (list: readonly HeldDescriptor[]) => list.map(({ name }) => name)
const code = (what: FdbError['code'], retryable = false) => expect.objectContaining({ code: what, retryable })

describe('a daemon holds descriptors', () => {
  it('of any kind, and gives back the very same objects', async () => {
    const { held } = await daemon()
    const [left, right] = socketPair('a connection')
    const fds: Record<string, OwnedFd> = {
      memory: memoryFile('held', 'a memory file'),
      datagrams: bindListener(parseListenerSpec('udp://127.0.0.1:0')),
      listener: bindListener(parseListenerSpec('tcp://127.0.0.1:0')),
      device: openFile('/dev/null', 'r+', 'a device'),
      folder: openFile('/', 'r', 'a folder'),
      connection: left,
    }
    await writeAllAt(fds.memory!, Buffer.from('what was written'), 0)
    for (const [name, fd] of Object.entries(fds)) await held.put(name, fd)
    const before = Object.values(fds).map(fd => inspectOne(fd))
    // Only the daemon has them now.
    closeAll(Object.values(fds))
    const list = await held.list()
    expect(list.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'connection socket',
      'datagrams socket',
      'device char',
      'folder dir',
      'listener socket',
      'memory file',
    ])
    expect(list.find(({ name }) => name === 'datagrams')).toMatchObject({
      address: formatAddress(before[1]!),
      pid: process.pid,
      until: null,
      whilePid: null,
      claimedBy: null,
    })
    for (const [index, name] of Object.keys(fds).entries()) {
      using fd = await held.claim(name, { shared: true })
      expect(inspectOne(fd)).toEqual(before[index])
      if (name === 'memory') {
        const text = Buffer.alloc(16)
        await readAt(fd, text, 0, text.length, 0)
        expect(text.toString()).toBe('what was written')
      }
    }
    right.close()
  })

  it('under one name once, until it is replaced or removed', async () => {
    const { client, held, pid } = await daemon()
    using one = memoryFile('one', 'a memory file')
    using two = memoryFile('two', 'a memory file')
    // The connection has been accepted, and whose it is been looked at.
    await client.status()
    const begin = openFds(pid).length
    await held.put('it', one)
    await expect(held.put('it', two)).rejects.toEqual(code('ERR_FDB_FD_TAKEN'))
    await held.put('it', two, { replace: true })
    using now = await held.claim('it', { shared: true })
    expect(inspectOne(now).ino).toBe(inspectOne(two).ino)
    await held.remove('it')
    for (const gone of [held.remove('it'), held.claim('it'), held.release('it')])
      await expect(gone).rejects.toEqual(code('ERR_FDB_FD_UNKNOWN'))
    for (const name of ['', 'a:b', 'a,b', 'a b', 'x'.repeat(129)])
      await expect(held.put(name, one)).rejects.toEqual(code('ERR_FDB_OPTION'))
    await expect(held.put('it', one, { lease: { ms: 0 } })).rejects.toEqual(code('ERR_FDB_OPTION'))
    expect(await client.status()).toMatchObject({ hosting: 'daemon', descriptors: 0 })
    await until('none was left behind', () => openFds(pid).length <= begin)
  })

  it('for a time, or as long as a process lives', async () => {
    const { held } = await daemon()
    const { pid, end } = await other()
    using fd = memoryFile('leased', 'a memory file')
    await held.put('for-good', fd)
    await held.put('for-long', fd, { lease: { ms: 3_600_000 } })
    await held.put('while', fd, { lease: { pid } })
    await held.put('shortly', fd, { lease: { ms: 1 } })
    await until('the time is over', async () => !names(await held.list()).includes('shortly'))
    const list = await held.list()
    expect(names(list)).toEqual(['for-good', 'for-long', 'while'])
    expect(list.map(({ whilePid }) => whilePid)).toEqual([null, null, pid])
    expect(Date.parse(list[1]!.until!) - Date.parse(list[1]!.putAt)).toBe(3_600_000)
    await end()
    await until('it went with the process', async () => names(await held.list()).length === 2)
    await expect(held.put('late', fd, { lease: { pid } })).rejects.toEqual(code('ERR_FDB_OPTION'))
    // An entry that is put again has the new lease alone.
    await held.put('for-long', fd, { replace: true })
    expect((await held.list())[1]).toMatchObject({ name: 'for-long', until: null })
  })

  it('for one claimant at a time: until he releases it, or has gone', async () => {
    const { control, held } = await daemon()
    const { client, held: others } = await operator(control)
    using fd = memoryFile('claimed', 'a memory file')
    await held.put('it', fd)
    using mine = await others.claim('it')
    using again = await others.claim('it')
    expect(inspectOne(mine)).toEqual(inspectOne(again))
    expect(await held.list()).toMatchObject([{ name: 'it', claimedBy: process.pid }])
    const claimed = code('ERR_FDB_FD_CLAIMED', true)
    for (const refused of [held.claim('it'), held.claim('it', { shared: true }), held.release('it')])
      await expect(refused).rejects.toEqual(claimed)
    await expect(held.put('it', fd, { replace: true })).rejects.toEqual(claimed)
    await others.release('it')
    using free = await held.claim('it')
    expect(inspectOne(free).ino).toBe(inspectOne(fd).ino)
    await held.release('it')
    await others.claim('it').then(taken => taken.close())
    client.close()
    await until('it is free', async () => (await held.list())[0]?.claimedBy === null)
  })

  it('and ends a claim whose answer came too late, unless the claimant has asked again', async () => {
    const { control, held, pid } = await daemon()
    using it = memoryFile('it', 'a memory file')
    for (const name of ['late', 'again', 'for a process']) await held.put(name.replaceAll(' ', '-'), it)
    const theirs = (await operator(control)).held
    const { pid: whose } = await other()
    const open = openFds(process.pid).length
    signalPid(pid, 'SIGSTOP')
    const options = { timeout: 200 }
    const late = [
      theirs.claim('late', options),
      theirs.claim('again', options),
      theirs.claim('for-a-process', { ...options, while: { pid: whose } }),
    ]
    for (const claim of late) await expect(claim).rejects.toEqual(code('ERR_FDB_DEADLINE', true))
    const again = theirs.claim('again')
    signalPid(pid, 'SIGCONT')
    const fd = await again
    await until('no claim is left that is not known', async () =>
      (await held.list()).every(({ name, claimedBy }) => (claimedBy !== null) === (name === 'again')),
    )
    fd.close()
    expect(openFds(process.pid)).toHaveLength(open)
    await theirs.release('again')
    ;(await held.claim('again')).close()
  })

  it('and tells whoever watches of each change, in the end of the last one', async () => {
    const { control, held, pid } = await daemon()
    const { client, held: watched } = await operator(control)
    using fd = memoryFile('watched', 'a memory file')
    const lists: string[] = []
    const seen = (async () => {
      for await (const list of watched.watch()) {
        lists.push(names(list).join())
        if (lists.at(-1) === 'b') break
      }
    })()
    await until('the first list is here', () => lists.length > 0)
    await held.put('a', fd)
    await until('it was told', () => lists.includes('a'))
    await held.put('b', fd)
    await held.remove('a')
    await seen
    expect(lists[0]).toBe('')
    // The connection is as good as before.
    expect(names(await watched.list())).toEqual(['b'])
    const endless = watched.watch()
    expect(names((await endless.next()).value!)).toEqual(['b'])
    const next = endless.next()
    client.close()
    await expect(next).rejects.toEqual(code('ERR_FDB_CHANNEL_CLOSED', true))
    const stopped = new AbortController()
    const aborted = held.watch({ signal: stopped.signal })
    await aborted.next()
    stopped.abort(new Error('enough'))
    await expect(aborted.next()).rejects.toThrow('enough')
    // A time limit that is longer than a timer can be.
    process.kill(pid, 'SIGSTOP')
    const patient = held.watch({ timeout: Number.POSITIVE_INFINITY }).next()
    setTimeout(() => process.kill(pid, 'SIGCONT'), 50)
    expect(names((await patient).value!)).toEqual(['b'])
  })

  it('and names them before it ends', async () => {
    const { control, held, pid } = await daemon()
    const sandbox = Sandbox.open()
    using fd = memoryFile('held', 'a memory file')
    await held.put('it', fd)
    const refused = await sandbox.run('stop', '--control', control)
    expect(refused).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/^ERR_FDB_HELD_ALONE: .*the descriptors stored by fd-broker fd/),
    })
    expect(await sandbox.run('stop', '--control', control, '--drop')).toMatchObject({ code: 0 })
    expect(hasEnded(pid)).toBe(true)
  })
})

describe('fd-broker fd', () => {
  it.runIf(TRACES_OWN)('puts, lists, gives to a command and removes', async () => {
    const { control, pid: daemonPid } = await daemon()
    const sandbox = Sandbox.open()
    const at = ['--control', control]
    const fd = (...args: string[]) => sandbox.run('fd', ...args)
    const command = `${process.execPath} ${CLI} fd`
    const put = await sandbox.runCommand(['sh', '-c', `echo hello | ${command} put ${at.join(' ')} spool`])
    expect(put).toEqual({ code: 0, stdout: 'spool is held\n', stderr: '' })
    const third = [
      'sh',
      '-c',
      `${command} put ${at.join(' ')} null --descriptor 3 --for 1h --json 3<>/dev/null`,
    ]
    expect(await sandbox.runCommand(third)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('"ok": true'),
    })
    const { pid } = await other()
    const stolen = await fd('put', 'theirs', ...at, '--pid', String(pid), '--while', String(pid))
    expect(stolen).toMatchObject({ code: 0, stderr: '' })
    expect((await fd('list', ...at)).stdout.split('\n')).toEqual([
      expect.stringMatching(/^NAME +WHAT +PUT BY +HELD +CLAIMED BY$/),
      expect.stringMatching(/^null +char +\d+ +\d{4}-.*Z +-$/),
      expect.stringMatching(/^spool +fifo +\d+ +for good +-$/),
      expect.stringMatching(new RegExp(`^theirs +char +\\d+ +while ${pid} lives +-$`)),
      '',
    ])
    const script = 'read line <&3; echo "$line $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID - $$))"; exit 7'
    const got = await fd('get', 'spool,null', ...at, '--', 'sh', '-c', script)
    expect(got).toEqual({ code: 7, stdout: 'hello 2 spool:null 0\n', stderr: '' })
    expect(await fd('remove', 'null', ...at)).toMatchObject({ code: 0 })
    // The daemon keeps what no process has got.
    expect(await fd('get', 'theirs', ...at, '--remove', '--', '/nowhere')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_NO_BINARY: /),
    })
    // Without a shell in PATH no process can be started.
    const noShell = [process.execPath, CLI, 'fd', 'get', 'theirs', ...at, '--remove', '--', '/bin/true']
    expect(await sandbox.runCommand(['/usr/bin/env', 'PATH=/nowhere', ...noShell])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_SPAWN: cannot start sh \(ENOENT\): /),
    })
    expect(await fd('get', 'theirs', ...at, '--remove', '--', 'true')).toMatchObject({ code: 0 })
    expect(await fd('get', 'null', ...at, '--', 'true')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_FD_UNKNOWN: /),
    })
    expect(JSON.parse((await fd('list', ...at, '--json')).stdout)).toMatchObject([{ name: 'spool' }])
    expect(openFds(daemonPid).filter(target => target.startsWith('/dev/null')).length).toBeLessThanOrEqual(3)
  })

  it('keeps others away as long as a command runs, and goes on telling what changes', async () => {
    const { control, held } = await daemon()
    const sandbox = Sandbox.open()
    using fd = memoryFile('exclusive', 'a memory file')
    await held.put('it', fd)
    const watching = start(['fd', 'list', '--watch', '--control', control])
    const lines = createInterface(watching.stdout!)
    const said: string[] = []
    lines.on('line', line => said.push(line))
    const running = start(['fd', 'get', '--exclusive', 'it', '--control', control, '--', 'sleep', '600'])
    await until('it is claimed', () => said.some(line => new RegExp(`^it .* ${running.pid}$`).test(line)))
    await expect(held.claim('it')).rejects.toEqual(code('ERR_FDB_FD_CLAIMED', true))
    running.kill('SIGTERM')
    expect(await once(running, 'exit')).toEqual([143, null])
    await until('it is free', () => said.at(-1)?.endsWith(' -'))
    // The next daemon has the same list, and tells of its changes.
    const lists = said.length
    expect(await sandbox.run('upgrade', '--self', '--control', control)).toMatchObject({ code: 0 })
    const next = await operator(control)
    await next.held.put('other', fd)
    await until('the next daemon tells', () => said.some(line => line.startsWith('other ')))
    expect(said.slice(lists).filter(line => line.startsWith('NAME'))).toHaveLength(1)
    await next.held.remove('other')
    await next.held.remove('it')
    await until('none is left', () => said.at(-1)?.startsWith('NAME'))
  })

  it('keeps others away as long as a command runs, also past an upgrade of the daemon and the death of fd get', async () => {
    const { control, held } = await daemon()
    const sandbox = Sandbox.open()
    using fd = memoryFile('exclusive', 'a memory file')
    await held.put('it', fd)
    const running = start(['fd', 'get', '--exclusive', 'it', '--control', control, '--', 'sleep', '600'])
    const claimants = async () => (await held.list()).flatMap(({ users }) => users.map(({ pid }) => pid))
    await until('the command has its own claim', async () => (await claimants()).length === 1)
    const [command = 0] = await claimants()
    expect(command).not.toBe(running.pid)
    expect(await sandbox.run('upgrade', '--self', '--control', control)).toMatchObject({ code: 0 })
    const next = await operator(control)
    await expect(next.held.claim('it')).rejects.toEqual(code('ERR_FDB_FD_CLAIMED', true))
    running.kill('SIGKILL')
    await once(running, 'exit')
    await expect(next.held.claim('it')).rejects.toEqual(code('ERR_FDB_FD_CLAIMED', true))
    signalPid(command, 'SIGKILL')
    await until('it is free', async () => (await next.held.list())[0]?.users.length === 0)
    const again = await next.held.claim('it')
    again.close()
  })

  it('claims for a process that lives, and releases it', async () => {
    const { control, held } = await daemon()
    const sandbox = Sandbox.open()
    using fd = memoryFile('claimed', 'a memory file')
    await held.put('it', fd)
    const { pid, end } = await other()
    const ask = (order: string) =>
      sandbox.run('fd', order, 'it', '--control', control, '--while', String(pid))
    expect(await ask('claim')).toMatchObject({ code: 0, stdout: `it is claimed by process ${pid}\n` })
    expect(await held.list()).toMatchObject([{ claimedBy: pid, users: [{ pid, exclusive: true }] }])
    await expect(held.claim('it')).rejects.toEqual(code('ERR_FDB_FD_CLAIMED', true))
    expect(await ask('release')).toMatchObject({ code: 0 })
    expect(await held.list()).toMatchObject([{ claimedBy: null, users: [] }])
    await held.claim('it', { shared: true, while: { pid } }).then(mine => mine.close())
    await end()
    await until('it is claimed no more', async () => (await held.list())[0]?.users.length === 0)
    expect(await ask('claim')).toMatchObject({ code: 2, stderr: expect.stringMatching(/^ERR_FDB_OPTION: /) })
  })

  it('asks only daemons', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    expect(await sandbox.run('fd', 'list', '--control', sandbox.control)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_NOT_A_DAEMON: /),
    })
    const both = await sandbox.run(
      'fd',
      'put',
      'it',
      '--control',
      sandbox.control,
      '--for',
      '1s',
      '--while',
      '1',
    )
    expect(both).toMatchObject({ code: 2, stderr: expect.stringMatching(/^ERR_FDB_OPTION: /) })
  })
})

function start(args: readonly string[]) {
  const child = spawn(process.execPath, [CLI, ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, NODE_OPTIONS: '' },
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}
