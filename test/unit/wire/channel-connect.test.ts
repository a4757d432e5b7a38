import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { Channel } from '../../../src/wire/channel.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { compiled } from '../../processes/compiled.js'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-connect-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function listenAt(path: string, backlog = 16): OwnedFd {
  return OwnedFd.own(native.bindSocket({ kind: 'unix', host: path, backlog }), 'listener')
}

describe('Channel.connect', () => {
  it('reaches a ControlListener, which is told who connects', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path)
    const listener = new ControlListener(fd)
    const accepted = new Promise<Channel>(resolve => {
      listener.start((socket, peer) => {
        expect(peer.pid).toBe(process.pid)
        resolve(new Channel(socket))
      })
    })
    const client = await Channel.connect(path)
    const server = await accepted
    const heard = new Promise<string>(resolve => {
      server.start({ message: payload => resolve(payload.toString()), end: () => {} })
    })
    await client.send(Buffer.from('hello'))
    expect(await heard).toBe('hello')
    listener.stop()
    listener.stop()
    fd.close()
    await Promise.all([client.close(), server.close()])
  })

  it('reaches a ControlListener on a socket that blocks, as a service manager passes it, which goes on', () => {
    const script = `
      const [kernel, { native }, { ControlListener }] = await Promise.all(process.argv.slice(2).map(file => import(file)))
      const socket = native.bindSocket({ kind: 'unix', host: process.argv[1], backlog: 16 })
      native.setBlocking(socket, true)
      new ControlListener(kernel.OwnedFd.own(socket, 'listener')).start(client => client.close())
      const { connect } = await import('node:net')
      connect(process.argv[1]).on('close', () => setTimeout(() => process.exit(0), 50))`
    const sources = ['kernel/index', 'kernel/native', 'wire/control-listener'].map(compiled)
    const args = ['--input-type=module', '-e', script, join(folder, 's'), ...sources]
    expect(spawnSync(process.execPath, args, { timeout: 20_000, encoding: 'utf8' })).toMatchObject({
      status: 0,
      stderr: '',
    })
  })

  it.each(['ENOSPC', 'ENOMEM'] as const)(
    'says that the kernel cannot watch the connection (%s)',
    async code => {
      const path = join(folder, 's')
      const fd = listenAt(path)
      const createPoll = vi.spyOn(native, 'createPoll').mockImplementationOnce(() => {
        throw native.failure(constants.errno[code], 'epoll_ctl')
      })
      onTestFinished(() => {
        createPoll.mockRestore()
        fd.close()
      })
      await expect(Channel.connect(path)).rejects.toMatchObject({
        code: 'ERR_FDB_NO_DESCRIPTORS',
        message: expect.stringContaining(code),
      })
    },
  )

  it('says that the folder of the control socket cannot be looked up', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path)
    const connectUnix = vi.spyOn(native, 'connectUnix').mockImplementationOnce(address => {
      const connection = native.connectUnix(address, false)
      rmSync(folder, { recursive: true })
      symlinkSync(folder, folder)
      return connection
    })
    onTestFinished(() => {
      connectUnix.mockRestore()
      fd.close()
    })
    await expect(Channel.connect(path)).rejects.toMatchObject({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringContaining('ELOOP'),
    })
  })

  it('says that there is no holder, and why', async () => {
    const missing = join(folder, 'missing')
    await expect(Channel.connect(missing)).rejects.toMatchObject({
      code: 'ERR_FDB_NO_HOLDER',
      details: { errno: 'ENOENT' },
    })
    const dead = join(folder, 'dead')
    listenAt(dead).close()
    await expect(Channel.connect(dead)).rejects.toMatchObject({
      code: 'ERR_FDB_NO_HOLDER',
      details: { errno: 'ECONNREFUSED' },
    })
  })

  it('names limit and length of a path that is too long', async () => {
    await expect(Channel.connect(`/tmp/${'x'.repeat(102)}`)).rejects.toMatchObject({
      code: 'ERR_FDB_PATH_TOO_LONG',
      message: expect.stringMatching(/^control socket path of 107 bytes exceeds the limit of 106:/),
      details: { limit: 106, got: 107 },
    })
    await expect(Channel.connect('')).rejects.toMatchObject({ code: 'ERR_FDB_CONTROL_PATH' })
  })

  it('waits for a full queue until its deadline, and gets in when there is room', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path, 0)
    const first = await Channel.connect(path)
    await expect(Channel.connect(path, { timeoutMs: 20 })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      retryable: true,
    })
    const reason = new Error('stop')
    const abort = new AbortController()
    const aborted = Channel.connect(path, { signal: abort.signal })
    abort.abort(reason)
    await expect(aborted).rejects.toBe(reason)
    const second = Channel.connect(path)
    const listener = new ControlListener(fd)
    listener.start(socket => socket.close())
    await (await second).close()
    listener.stop()
    fd.close()
    await first.close()
  })
})

describe('a ControlListener', () => {
  it('goes on without a peer that cannot be served, and says why', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path, 64)
    const listener = new ControlListener(fd)
    const told: unknown[] = []
    const clients = await Promise.all([Channel.connect(path), Channel.connect(path)])
    let accepted = 0
    const served = new Promise<void>(resolve => {
      listener.start({
        channel: socket => {
          if (++accepted === 1) throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
          socket.close()
          resolve()
        },
        error: error => told.push(error),
      })
    })
    const [first, second] = clients.map(client => {
      return new Promise<void>(end => client.start({ message: () => {}, end: () => end() }))
    })
    await Promise.all([served, first, second])
    expect(told).toMatchObject([
      { code: 'ERR_FDB_ACCEPT', retryable: true, message: expect.stringContaining('(ENOSPC)') },
    ])
    expect(listener.accepting).toBe(true)
    listener.stop()
    fd.close()
    await Promise.all(clients.map(client => client.close()))
  })

  it('takes a whole flood of connections that are closed unread in one turn, and 16 that are served', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path, 64)
    const listener = new ControlListener(fd)
    const clients = Array.from({ length: 60 }, () => native.connectUnix(path, false))
    let [closed, served] = [0, 0]
    // The turns are bounded in time, too.
    vi.spyOn(performance, 'now').mockReturnValue(0)
    onTestFinished(() => void vi.restoreAllMocks())
    const turns: number[] = []
    await new Promise<void>(done =>
      listener.start(socket => {
        socket.close()
        if (closed + served === 59) setImmediate(done)
        if (closed < 40) {
          closed++
          return false
        }
        if (++served % 16 === 1) setImmediate(() => turns.push(served))
        return true
      }),
    )
    listener.stop()
    fd.close()
    native.closeMany(clients)
    expect([closed, turns]).toEqual([40, [16, 20]])
  })

  it('keeps what connects while it is stopped, and goes on when it is started again', async () => {
    const path = join(folder, 's')
    const fd = listenAt(path, 64)
    const listener = new ControlListener(fd)
    listener.start(() => expect.unreachable('stopped'))
    listener.stop()
    expect(listener.accepting).toBe(false)
    // More than one turn of the loop accepts.
    const clients = await Promise.all(Array.from({ length: 40 }, () => Channel.connect(path)))
    let accepted = 0
    await new Promise<void>(resolve => {
      listener.start(socket => {
        socket.close()
        if (++accepted === clients.length) resolve()
      })
    })
    expect(listener.fd).toBe(fd)
    listener.stop()
    fd.close()
    await Promise.all(clients.map(client => client.close()))
  })

  it('stops and says so when its descriptor cannot accept', async () => {
    const [a, b] = native.socketPair()
    const fd = OwnedFd.own(a, 'not a listener')
    const listener = new ControlListener(fd)
    const error = new Promise(resolve => listener.start({ channel: () => {}, error: resolve }))
    native.sendMessage(b, Buffer.from('x'), 0, 1, null)
    expect(await error).toMatchObject({ code: 'ERR_FDB_ACCEPT', retryable: false })
    expect(listener.accepting).toBe(false)
    fd.close()
    native.close(b)
  })

  it('reports a file where a socket should be', async () => {
    const path = join(folder, 'file')
    writeFileSync(path, 'x')
    await expect(Channel.connect(path)).rejects.toMatchObject({ code: 'ERR_FDB_NO_HOLDER' })
  })
})
