import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { MAX_FDS_PER_MESSAGE } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, openDescriptors, thrown } from './support.js'

const keep = descriptors()
const text = (value: string) => Buffer.from(value)

function pair(): [number, number] {
  const made = native.socketPair()
  keep(made)
  return made
}

function receive(fd: number, size = 1024) {
  const into = Buffer.alloc(size)
  const got = native.receiveMessage(fd, into, 0, size)
  if (got.fds !== null) keep(got.fds)
  return { ...got, text: into.toString('latin1', 0, Math.max(0, got.bytes)) }
}

describe('stopReceiving', () => {
  it.each([0, 1, 5_000, 100_000])('finds no descriptors in %i bytes, and lets no further ones in', bytes => {
    const [a, b] = pair()
    if (bytes > 0) native.sendMessage(a, Buffer.alloc(bytes), 0, bytes, null)
    native.sendMessage(b, text('bye'), 0, 3, null)
    expect(native.stopReceiving(b)).toBe(true)
    expect(thrown(() => native.sendMessage(a, text('x'), 0, 1, [a])).code).toBe('EPIPE')
    native.close(b)
    // Earlier bytes arrive.
    expect(receive(a, 3)).toMatchObject({ bytes: 3, text: 'bye' })
  })

  it.each([0, 1, 50_000])('finds a descriptor behind %i bytes', bytes => {
    const [a, b] = pair()
    if (bytes > 0) native.sendMessage(a, Buffer.alloc(bytes), 0, bytes, null)
    native.sendMessage(a, text('x'), 0, 1, [a])
    native.sendMessage(a, Buffer.alloc(10), 0, 10, null)
    expect(native.stopReceiving(b)).toBe(false)
  })

  it('stops nothing but a stream of this addon', () => {
    const listener = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 4 }))
    expect(native.stopReceiving(keep(native.memfd('m')))).toBe(false)
    expect(native.stopReceiving(listener)).toBe(false)
    expect(native.stopReceiving(1)).toBe(false)
    expect(native.inspect([listener])[0]).toMatchObject({ accepting: true })
  })
})

describe('sendMessage and receiveMessage', () => {
  it('carry bytes and answer -1 when there is nothing', () => {
    const [a, b] = pair()
    expect(receive(b)).toMatchObject({ bytes: -1, fds: null, truncated: false })
    expect(native.sendMessage(a, text('..hello..'), 2, 5, null)).toBe(5)
    expect(receive(b)).toMatchObject({ bytes: 5, text: 'hello', fds: null })
    native.close(a)
    expect(receive(b)).toMatchObject({ bytes: 0, fds: null })
  })

  it('write only into the given range of the buffer', () => {
    const [a, b] = pair()
    native.sendMessage(a, text('abcdef'), 0, 6, null)
    const into = Buffer.alloc(6, '-')
    expect(native.receiveMessage(b, into, 2, 3).bytes).toBe(3)
    expect(into.toString()).toBe('--abc-')
    expect(native.receiveMessage(b, into, 0, 6).bytes).toBe(3)
    expect(into.toString()).toBe('defbc-')
  })

  it('carry descriptors of every kind, CLOEXEC, in order', () => {
    const [a, b] = pair()
    const listener = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 4 }))
    const memory = keep(native.memfd('m'))
    const sent = [listener, memory, a, listener]
    native.sendMessage(a, text('x'), 0, 1, sent)
    const { fds } = receive(b)
    expect(fds).toHaveLength(4)
    const identity = (of: number[]) => native.inspect(of).map(one => [one.type, one.ino, one.cookie])
    expect(identity(fds!)).toEqual(identity(sent))
    for (const fd of fds!) {
      expect(flagsOf(fd) & CLOEXEC).not.toBe(0)
    }
  })

  it.each([1, 2, 3, 64, 252, MAX_FDS_PER_MESSAGE])('carry %i descriptors in one message', count => {
    const [a, b] = pair()
    const memory = keep(native.memfd('m'))
    const before = openDescriptors()
    const owned = native.openCount()
    expect(native.sendMessage(a, text('n'), 0, 1, new Array(count).fill(memory))).toBe(1)
    const into = Buffer.alloc(16)
    const got = native.receiveMessage(b, into, 0, 16)
    expect(got.fds).toHaveLength(count)
    expect(new Set(got.fds).size).toBe(count)
    expect(got.truncated).toBe(false)
    expect(native.openCount()).toBe(owned + count)
    native.closeMany(got.fds!)
    expect(openDescriptors()).toBe(before)
    expect(native.openCount()).toBe(owned)
  })

  it('refuse 254 and more with EINVAL, as the kernel does', () => {
    const [a, b] = pair()
    for (const count of [254, 512, 513, 2000]) {
      const error = thrown(() => native.sendMessage(a, text('x'), 0, 1, new Array(count).fill(a)))
      expect(error).toMatchObject({ code: 'EINVAL', syscall: 'sendmsg' })
    }
    expect(receive(b).bytes).toBe(-1)
  })

  it('refuse descriptors without a byte: the kernel would drop them silently', () => {
    const [a] = pair()
    expect(thrown(() => native.sendMessage(a, text(''), 0, 0, [a]))).toBeInstanceOf(RangeError)
    expect(native.sendMessage(a, text(''), 0, 0, null)).toBe(0)
    expect(native.sendMessage(a, text('x'), 0, 1, [])).toBe(1)
  })

  it('name a closed descriptor in the list and send nothing', () => {
    const [a, b] = pair()
    expect(thrown(() => native.sendMessage(a, text('x'), 0, 1, [a, 99_999]))).toMatchObject({
      code: 'EBADF',
      syscall: 'sendmsg',
    })
    expect(receive(b).bytes).toBe(-1)
  })

  it('answer -1 when the socket is full, and EPIPE (no signal) when the other end is gone', () => {
    const [a, b] = pair()
    const chunk = Buffer.alloc(64 << 10)
    let sent = 0
    for (let got = 0; got >= 0; ) {
      sent += got
      got = native.sendMessage(a, chunk, 0, chunk.length, null)
    }
    expect(sent).toBeGreaterThan(64 << 10)
    native.close(b)
    expect(thrown(() => native.sendMessage(a, chunk, 0, 1, null))).toMatchObject({
      code: 'EPIPE',
      syscall: 'sendmsg',
    })
  })

  it('stop a read at a message with descriptors', () => {
    const [a, b] = pair()
    native.sendMessage(a, text('one'), 0, 3, [a])
    native.sendMessage(a, text('two'), 0, 3, [a, a])
    expect(receive(b)).toMatchObject({ text: 'one', fds: [expect.any(Number)] })
    const second = receive(b)
    expect(second.text).toBe('two')
    expect(second.fds).toHaveLength(2)
  })

  it('refuse what is no socket', () => {
    const memory = keep(native.memfd('m'))
    expect(thrown(() => receive(memory))).toMatchObject({ code: 'ENOTSOCK', syscall: 'recvmsg' })
    expect(thrown(() => native.sendMessage(memory, text('x'), 0, 1, null))).toMatchObject({
      code: 'ENOTSOCK',
    })
  })

  it.each([
    [3, 6, 3],
    [0, 5, 0],
    [6, 6, 6],
    [100, 253, 100],
  ])('report MSG_CTRUNC: %i free slots, %i sent, %i arrive', (free, sent, arrived) => {
    const script = fileURLToPath(new URL('children/truncate.mjs', import.meta.url))
    const child = spawnSync(
      'sh',
      ['-c', 'ulimit -n 400; exec "$0" "$@"', process.execPath, script, `${free}`, `${sent}`],
      {
        encoding: 'utf8',
      },
    )
    expect(child.stderr).toBe('')
    expect(JSON.parse(child.stdout)).toEqual({ bytes: 1, arrived, truncated: arrived < sent, same: true })
  })

  it('close the pidfd of the sender that the kernel adds where the socket asks for it (SO_PASSPIDFD)', ({
    skip,
  }) => {
    const [a, b] = pair()
    const script = 'open(S, "+<&=3") or exit 1; setsockopt(S, 1, 76, pack("i", 1)) or exit 1'
    const set = spawnSync('perl', ['-e', script], { stdio: ['ignore', 'ignore', 'ignore', b] })
    if (set.status !== 0) skip('no perl, or a kernel before 6.5')
    native.sendMessage(a, text('with'), 0, 4, [a])
    native.sendMessage(a, text('none'), 0, 4, null)
    const before = openDescriptors()
    expect(receive(b)).toMatchObject({ text: 'with', fds: [expect.any(Number)] })
    expect(openDescriptors()).toBe(before + 1)
    expect(receive(b)).toMatchObject({ text: 'none', fds: null })
    expect(openDescriptors()).toBe(before + 1)
  })
})
