import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptors, thrown } from './support.js'

const keep = descriptors()
let folder = ''

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-spawn-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

function bytes(...texts: string[]): Buffer {
  return Buffer.from(texts.map(text => `${text}\0`).join(''))
}

/** Runs a line of the shell, and reaps it. */
async function shell(
  line: string,
  { env = [] as string[], pidAt = -1, fds = [] as number[], cwd = '' } = {},
): Promise<{ pid: number; status: number }> {
  const pid = native.spawn(
    bytes('/bin/sh', cwd, 'sh', '-c', line),
    bytes('PATH=/bin:/usr/bin', ...env),
    pidAt,
    fds,
    9,
  )
  let status: number | null = null
  await expect.poll(() => (status = native.reapChild(pid))).not.toBe(null)
  return { pid, status: status! }
}

describe('spawn', () => {
  it('runs a program in its folder, with its environment and its own number in it', async () => {
    const env = Buffer.from('OWN=0000000000\0PATH=/bin:/usr/bin\0LAST=x\0')
    const words = bytes('/bin/sh', folder, 'sh', '-c', 'echo "$OWN $$ $LAST $(pwd -P)" >said')
    const pid = native.spawn(words, env, 4, [], 9)
    await expect.poll(() => native.reapChild(pid)).toBe(0)
    expect(readFileSync(join(folder, 'said'), 'utf8')).toBe(`${pid} ${pid} x ${realpathSync(folder)}\n`)
  })

  it('gives descriptors from number 3 on, in their order, whatever numbers they had', async () => {
    const pairs = [0, 1, 2].map(() => keep(native.socketPair()))
    const theirs = pairs.map(([, b]) => b!)
    // The first three are what the targets are in this process, or near.
    const { status } = await shell('echo a >&3; echo b >&4; echo c >&5; ls -l /proc/self/fd >&5', {
      fds: [theirs[2]!, theirs[0]!, theirs[1]!],
    })
    expect(status).toBe(0)
    const said = pairs.map(([a]) => {
      const into = Buffer.alloc(4_096)
      return into.toString('utf8', 0, Math.max(0, native.receiveMessage(a!, into, 0, into.length).bytes))
    })
    expect(said[2]).toBe('a\n')
    expect(said[0]).toBe('b\n')
    expect(said[1]!.startsWith('c\n')).toBe(true)
  })

  it('has stdin, stdout and stderr, and no other descriptor that it was not given', async () => {
    const [, b] = keep(native.socketPair())
    const pid = native.spawn(bytes('/bin/sleep', '', 'sleep', '60'), bytes('A=b'), -1, [b!], 9)
    try {
      // The child's loader has a library open at first.
      const open = () => readdirSync(`/proc/${pid}/fd`).sort()
      await expect.poll(open, { timeout: 10_000 }).toEqual(['0', '1', '2', '3'])
    } finally {
      process.kill(pid, 'SIGKILL')
      await expect.poll(() => native.reapChild(pid)).toBe(-9)
    }
  })

  it('heads a group of its own, and has usual signals', async () => {
    const { pid } = await shell(
      `awk '{print $5}' /proc/$$/stat >group; grep SigIgn /proc/$$/status >ignored`,
      {
        cwd: folder,
      },
    )
    expect(readFileSync(join(folder, 'group'), 'utf8')).toBe(`${pid}\n`)
    expect(readFileSync(join(folder, 'ignored'), 'utf8')).toMatch(/^SigIgn:\s0+$/m)
  })

  it('tells by which signal it has ended', async () => {
    expect((await shell('kill -TERM $$')).status).toBe(-15)
    expect((await shell('exit 3')).status).toBe(3)
  })

  it('throws the call that failed, and leaves no child', () => {
    const env = bytes('A=b')
    expect(thrown(() => native.spawn(bytes(join(folder, 'none'), '', 'x'), env, -1, [], 0))).toMatchObject({
      code: 'ENOENT',
      syscall: 'execve',
    })
    expect(
      thrown(() => native.spawn(bytes('/bin/sh', join(folder, 'no'), 'x'), env, -1, [], 0)),
    ).toMatchObject({
      code: 'ENOENT',
      syscall: 'chdir',
    })
    expect(thrown(() => native.spawn(bytes('/bin/sh', '', 'x'), env, -1, [99_999], 0))).toMatchObject({
      code: 'EBADF',
      syscall: 'dup',
    })
    expect(native.reapChild(1)).toBe(null)
  })

  it('refuses what is no command line', () => {
    const env = bytes('A=b')
    expect(thrown(() => native.spawn(bytes('/bin/sh', ''), env, -1, [], 0)).message).toMatch(/words are/)
    expect(thrown(() => native.spawn(Buffer.from('/bin/sh'), env, -1, [], 0)).message).toMatch(
      /end with a NUL/,
    )
    expect(thrown(() => native.spawn(bytes('/bin/sh', '', 'x'), env, 0, [], 0)).message).toMatch(
      /leaves no room/,
    )
    expect(thrown(() => native.spawn(bytes('/bin/sh', '', 'x'), env, -1, [], 65)).message).toMatch(
      /deathSignal/,
    )
  })
})

describe('setBlocking', () => {
  it('changes O_NONBLOCK for all who have the open file', () => {
    const [a] = keep(native.socketPair())
    const copy = keep(native.dup(a!))
    const flags = () =>
      Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${copy}`, 'utf8'))![1]!, 8)
    expect(flags() & 0o4000).toBe(0o4000)
    native.setBlocking(a!, true)
    expect(flags() & 0o4000).toBe(0)
    native.setBlocking(a!, false)
    expect(flags() & 0o4000).toBe(0o4000)
  })
})

describe('spawnGuarded', () => {
  const start = (line: string, standard = [0, 1, 2]) => {
    const words = bytes('/bin/sh', folder, 'sh', '-c', line)
    const [pid, guardian, leash] = native.spawnGuarded(words, bytes('PATH=/bin:/usr/bin'), standard)
    return { pid, guardian, leash: keep([leash])[0]! }
  }
  const parentOf = (pid: number) =>
    Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  const told = async (leash: number) => {
    const status = Buffer.alloc(4)
    const read = () => {
      try {
        return native.receive(leash, status, 0, 4)
      } catch (error) {
        return (error as NodeJS.ErrnoException).code
      }
    }
    await expect.poll(read).toBe(4)
    return status.readInt32LE()
  }

  it('starts a program as the leader of its session and the child of a guardian, with the given standard descriptors', async () => {
    const [a, b] = keep(native.socketPair())
    const { pid, guardian, leash } = start('echo $$; pwd -P; ls /proc/self/fd; exec sleep 60', [0, b!, b!])
    try {
      expect(parentOf(pid)).toBe(guardian)
      expect(parentOf(guardian)).toBe(process.pid)
      const into = Buffer.alloc(4_096)
      let said = ''
      const lines = () => {
        const { bytes: size } = native.receiveMessage(a!, into, 0, into.length)
        said += into.toString('utf8', 0, Math.max(0, size))
        return said.split('\n')
      }
      await expect.poll(() => lines().length).toBe(7)
      expect(said).toBe(`${pid}\n${realpathSync(folder)}\n0\n1\n2\n3\n`)
      expect(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[3]).toBe(`${pid}`)
    } finally {
      process.kill(pid, 'SIGKILL')
      expect(await told(leash)).toBe(-9)
      native.close(leash)
      await expect.poll(() => native.reapChild(guardian)).toBe(0)
    }
  })

  it('gives the program another parent when the leash is closed, and holds no descriptor and little memory until then', async () => {
    const big = Buffer.alloc(64 << 20, 1)
    const { pid, guardian, leash } = start('exec sleep 60')
    try {
      const own = () =>
        Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${guardian}/status`, 'utf8'))?.[1])
      // A sanitizer needs its memory.
      if (process.env.ASAN_OPTIONS === undefined) await expect.poll(own).toBeLessThan(4_096)
      expect(readdirSync(`/proc/${guardian}/fd`).length).toBeLessThanOrEqual(2)
      expect(big[1]).toBe(1)
      process.kill(guardian, 'SIGTERM')
      expect(native.reapChild(guardian)).toBe(null)
      native.close(leash)
      await expect.poll(() => native.reapChild(guardian)).toBe(0)
      expect(parentOf(pid)).not.toBe(guardian)
    } finally {
      process.kill(pid, 'SIGKILL')
    }
  })

  it('reports the exit code, and keeps the pid of the program until the leash is closed', async () => {
    const { pid, guardian, leash } = start('exit 7')
    expect(await told(leash)).toBe(7)
    expect(process.kill(pid, 0)).toBe(true)
    native.close(leash)
    await expect.poll(() => native.reapChild(guardian)).toBe(0)
  })

  it('throws the error of the call that failed, and leaves no process behind', async () => {
    const words = bytes('/no/such/program', '', 'x')
    expect(thrown(() => native.spawnGuarded(words, bytes('A=b'), [0, 1, 2]))).toMatchObject({
      code: 'ENOENT',
      syscall: 'execve',
    })
    const there = bytes('/bin/sh', '/no/such/folder', 'sh')
    expect(thrown(() => native.spawnGuarded(there, bytes('A=b'), [0, 1, 2]))).toMatchObject({
      code: 'ENOENT',
      syscall: 'chdir',
    })
    expect(thrown(() => native.spawnGuarded(there, bytes('A=b'), [0, 1]))).toBeInstanceOf(RangeError)
    await expect.poll(() => native.endedChild()).toBe(-1)
  })
})
