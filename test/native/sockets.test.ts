import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, lstatSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, folders, NONBLOCK, openDescriptors, thrown } from './support.js'

const keep = descriptors()
const folder = folders()

function expectBornRight(fd: number): void {
  expect(flagsOf(fd) & CLOEXEC, 'CLOEXEC').not.toBe(0)
  expect(flagsOf(fd) & NONBLOCK, 'O_NONBLOCK').not.toBe(0)
}

describe('bindSocket', () => {
  it('binds and listens on IPv4 and IPv6, non-blocking and CLOEXEC', async () => {
    for (const host of ['127.0.0.1', '::1']) {
      const fd = keep(native.bindSocket({ kind: 'tcp', host, port: 0, backlog: 8 }))
      expectBornRight(fd)
      const port = native.inspect([fd])[0]!.port!
      const client = createConnection({ host, port })
      await once(client, 'connect')
      const accepted = keep(native.accept(fd))
      expect(accepted).toBeGreaterThan(2)
      expectBornRight(accepted)
      expect(native.accept(fd)).toBe(-1)
      client.destroy()
    }
  })

  it('does not listen without a backlog', () => {
    const fd = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0 }))
    expect(native.inspect([fd])[0]).toMatchObject({ accepting: false })
    native.listen(fd, 4)
    expect(native.inspect([fd])[0]).toMatchObject({ accepting: true })
    native.listen(fd, 16)
  })

  it('sets the options that were asked for and no others', () => {
    const bare = keep(native.bindSocket({ kind: 'tcp', host: '::1', port: 0 }))
    const all = keep(
      native.bindSocket({
        kind: 'tcp',
        host: '::',
        port: 0,
        reuseAddr: true,
        reusePort: true,
        ipv6Only: false,
      }),
    )
    expect(native.inspect([bare, all])).toMatchObject([
      { reuseAddr: false, reusePort: false, ipv6Only: true },
      { reuseAddr: true, reusePort: true, ipv6Only: false },
    ])
    native.setOption(bare, 'reusePort', true)
    native.setOption(bare, 'reuseAddr', true)
    native.setOption(bare, 'keepAlive', true)
    expect(native.inspect([bare])).toMatchObject([{ reuseAddr: true, reusePort: true }])
    expect(thrown(() => native.setOption(bare, 'ipv6Only', false))).toMatchObject({
      code: 'EINVAL',
      syscall: 'setsockopt',
    })
    expect(thrown(() => native.setOption(bare, 'noDelay' as never, true))).toBeInstanceOf(RangeError)
  })

  it('names the failed call: a taken port, a foreign address, a closed descriptor', () => {
    const fd = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }))
    const port = native.inspect([fd])[0]!.port!
    const before = openDescriptors()
    expect(thrown(() => native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port }))).toMatchObject({
      code: 'EADDRINUSE',
      syscall: 'bind',
      errno: 98,
    })
    expect(thrown(() => native.bindSocket({ kind: 'tcp', host: '192.0.2.1', port: 0 }))).toMatchObject({
      code: 'EADDRNOTAVAIL',
    })
    expect(openDescriptors()).toBe(before)
    expect(thrown(() => native.listen(99_999, 1))).toMatchObject({ code: 'EBADF', syscall: 'listen' })
    expect(thrown(() => native.accept(99_999))).toMatchObject({ code: 'EBADF', syscall: 'accept' })
  })

  it('refuses what is no IP address', () => {
    for (const host of [
      'localhost',
      '',
      '1.2.3',
      '::1%no-such-if',
      '127.0.0.1\0.example',
      'x'.repeat(5000),
    ]) {
      expect(thrown(() => native.bindSocket({ kind: 'tcp', host, port: 0 }))).toBeInstanceOf(RangeError)
    }
  })

  it('binds udp without listening', () => {
    const fd = keep(native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }))
    expect(native.inspect([fd])[0]).toMatchObject({ socketType: 'dgram', protocol: 17, accepting: false })
    expect(
      thrown(() => native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0, backlog: 1 })),
    ).toBeInstanceOf(RangeError)
  })
})

describe('connectTcp', () => {
  it.each(['127.0.0.1', '::1'])(
    'begins to connect to %s, without delay, and knows what came of it',
    async host => {
      const listener = keep(native.bindSocket({ kind: 'tcp', host, port: 0, backlog: 1 }))
      const { port } = native.inspect([listener])[0]!
      const client = keep(native.connectTcp(host, port!))
      expectBornRight(client)
      const server = keep(native.accept(listener))
      expect(server).toBeGreaterThanOrEqual(0)
      expect(native.connectResult(client)).toBe(0)
      native.close(listener)
      const refused = keep(native.connectTcp(host, port!))
      const error = native.failure(native.connectResult(refused), 'connect')
      expect(error).toMatchObject({ code: 'ECONNREFUSED', syscall: 'connect' })
      // The kernel tells it to the first who asks.
      expect(native.connectResult(refused)).toBe(-1)
    },
  )

  it('names what is known at once, and what is no address', () => {
    expect(thrown(() => native.connectTcp('255.255.255.255', 9))).toMatchObject({
      code: 'ENETUNREACH',
      syscall: 'connect',
    })
    for (const host of ['localhost', '', '1.2.3', '127.0.0.1\0', '::1%nothing'])
      expect(thrown(() => native.connectTcp(host, 9))).toBeInstanceOf(RangeError)
    for (const port of [0, -1, 65_536, 1.5])
      expect(thrown(() => native.connectTcp('127.0.0.1', port))).toBeInstanceOf(RangeError)
  })
})

describe('Unix sockets', () => {
  it('have the mode that was asked for, whatever the umask', async () => {
    const dir = await folder()
    for (const umask of [0o022, 0o077, 0]) {
      const before = process.umask(umask)
      try {
        for (const mode of [0o600, 0o660, 0o666, 0o777, 0]) {
          const path = join(dir, `${umask}-${mode}`)
          keep(native.bindSocket({ kind: 'unix', host: path, backlog: 4, mode }))
          expect(lstatSync(path).mode & 0o777).toBe(mode)
          expect(process.umask()).toBe(umask)
        }
      } finally {
        process.umask(before)
      }
    }
  })

  it('have the owner that was asked for', async () => {
    const dir = await folder()
    const path = join(dir, 's')
    const uid = process.getuid!()
    const gid = uid === 0 ? 1234 : process.getgid!()
    keep(native.bindSocket({ kind: 'unix', host: path, backlog: 4, uid, gid, mode: 0o660 }))
    expect(lstatSync(path)).toMatchObject({ uid, gid })
    expect(lstatSync(path).mode & 0o777).toBe(0o660)
    const plain = join(dir, 'plain')
    keep(native.bindSocket({ kind: 'unix', host: plain, backlog: 4, gid }))
    expect(lstatSync(plain)).toMatchObject({ gid })
    expect(lstatSync(plain).mode & 0o777).toBe(0o777 & ~process.umask())
  })

  it('connect and accept by path and by abstract name', async () => {
    const path = join(await folder(), 's')
    const abstract = `fdb-test-${process.pid}`
    for (const [host, hidden] of [
      [path, false],
      [abstract, true],
    ] as const) {
      const fd = keep(native.bindSocket({ kind: 'unix', host, abstract: hidden, backlog: 4 }))
      const client = keep(native.connectUnix(host, hidden))
      const server = keep(native.accept(fd))
      expectBornRight(client)
      expectBornRight(server)
      expect(native.inspect([fd])[0]).toMatchObject({ address: host, abstract: hidden, family: 'unix' })
      expect(native.inspect([client])[0]).toMatchObject({ address: '', abstract: false })
    }
  })

  it('refuse more than 107 bytes with ENAMETOOLONG and take exactly 107', async () => {
    const longest = `fdb-${process.pid}-`.padEnd(107, 'n')
    keep(native.bindSocket({ kind: 'unix', host: longest, abstract: true, backlog: 1 }))
    expect(native.inspect([keep(native.connectUnix(longest, true))])[0]).toMatchObject({ family: 'unix' })
    for (const length of [108, 300, 5000]) {
      const host = '/'.padEnd(length, 'x')
      expect(thrown(() => native.bindSocket({ kind: 'unix', host }))).toMatchObject({
        code: 'ENAMETOOLONG',
        syscall: 'bind',
      })
      expect(thrown(() => native.connectUnix(host, false))).toMatchObject({
        code: 'ENAMETOOLONG',
        syscall: 'connect',
      })
    }
    const path = join(await folder(), 'p').padEnd(107, 'p')
    keep(native.bindSocket({ kind: 'unix', host: path, backlog: 1, mode: 0o600 }))
    expect(native.inspect([keep(native.connectUnix(path, false))])[0]).toMatchObject({ family: 'unix' })
  })

  it('tell a missing path, a dead path and a taken path apart', async () => {
    const dir = await folder()
    const path = join(dir, 's')
    expect(thrown(() => native.connectUnix(path, false))).toMatchObject({ code: 'ENOENT' })
    native.close(native.bindSocket({ kind: 'unix', host: path, backlog: 1 }))
    expect(thrown(() => native.connectUnix(path, false))).toMatchObject({ code: 'ECONNREFUSED' })
    expect(thrown(() => native.bindSocket({ kind: 'unix', host: path, backlog: 1 }))).toMatchObject({
      code: 'EADDRINUSE',
    })
    writeFileSync(join(dir, 'file'), 'kept')
    expect(
      thrown(() => native.bindSocket({ kind: 'unix', host: join(dir, 'file'), mode: 0o600 })),
    ).toMatchObject({ code: 'EADDRINUSE' })
    expect(lstatSync(join(dir, 'file')).isFile()).toBe(true)
    expect(thrown(() => native.connectUnix('', false))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.connectUnix('/a\0b', false))).toBeInstanceOf(RangeError)
  })

  it('say EAGAIN when the backlog is full', async () => {
    const path = join(await folder(), 's')
    keep(native.bindSocket({ kind: 'unix', host: path, backlog: 1 }))
    keep([native.connectUnix(path, false), native.connectUnix(path, false)])
    expect(thrown(() => native.connectUnix(path, false))).toMatchObject({
      code: 'EAGAIN',
      syscall: 'connect',
    })
  })

  it('leave no path behind when the owner cannot be set', async () => {
    const dir = await folder()
    chmodSync(dir, 0o777)
    const script = fileURLToPath(new URL('children/chown.mjs', import.meta.url))
    const child = spawnSync(process.execPath, [script, join(dir, 's')], { encoding: 'utf8' })
    expect(child.stdout).toBe('EPERM chown false')
  })

  it('come in pairs', () => {
    const [a, b] = keep(native.socketPair())
    expectBornRight(a!)
    expectBornRight(b!)
    expect(native.inspect([a!, b!])).toMatchObject([
      { family: 'unix', socketType: 'stream' },
      { family: 'unix', socketType: 'stream' },
    ])
  })
})
