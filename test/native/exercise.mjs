// Makes every call of the addon, the failing ways too, in one process without a test runner: for valgrind, and on every platform.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { Worker } from 'node:worker_threads'
import zlib from 'node:zlib'
import { native as addon } from './children/addon.mjs'

/** The addon, noting which of its calls were made. */
const made = new Set()
const native = new Proxy(addon, {
  get(_, name) {
    made.add(name)
    return addon[name]
  },
})

const folder = mkdtempSync(join(tmpdir(), 'fdb-'))
const bytes = Buffer.alloc(4096)
const never = 5_000_000
/** See tools/test-native.mjs. */
const UNDER_VALGRIND = process.env.FD_BROKER_VALGRIND !== undefined

function refused(action, code) {
  assert.throws(action, { code })
}

function sockets() {
  const path = join(folder, 's')
  const own = { mode: 0o660, uid: process.getuid(), gid: process.getgid() }
  const listeners = [
    native.bindSocket({
      kind: 'tcp',
      host: '127.0.0.1',
      port: 0,
      backlog: 9,
      reuseAddr: true,
      reusePort: true,
    }),
    native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }),
    native.bindSocket({ kind: 'unix', host: path, backlog: 9, ...own }),
    native.bindSocket({ kind: 'unix', host: `fdb-exercise-${process.pid}`, abstract: true, backlog: 9 }),
    native.bindSocket({ kind: 'unix', host: join(folder, 'd'), datagram: true }),
  ]
  native.listen(listeners[0], 20)
  native.setOption(listeners[1], 'reuseAddr', true)
  const client = native.connectUnix(path, false)
  const { port } = native.inspect([listeners[0]])[0]
  const dialled = native.connectTcp('127.0.0.1', port)
  native.connectResult(dialled)
  refused(() => native.connectTcp('localhost', port), 'ERR_OUT_OF_RANGE')
  refused(() => native.connectResult(never), 'EBADF')
  native.close(dialled)
  const accepted = native.accept(listeners[2])
  assert.equal(native.accept(listeners[2]), -1)
  native.peerCredentials(accepted)
  const pidfd = native.peerPidfd(accepted)
  assert.equal(native.unreadBytes(accepted), 0)
  assert.equal(native.ackedBytes(accepted), null)
  refused(() => native.ackedBytes(never), 'EBADF')
  refused(() => native.unreadBytes(never), 'EBADF')
  const notifier = native.connectDatagram(join(folder, 'd'), false)
  const connected = native.connectUnix(`fdb-exercise-${process.pid}`, true)
  refused(() => native.bindSocket({ kind: 'unix', host: path }), 'EADDRINUSE')
  refused(() => native.bindSocket({ kind: 'unix', host: '/'.padEnd(300, 'x') }), 'ENAMETOOLONG')
  refused(() => native.bindSocket({ kind: 'tcp', host: 'no-address', port: 0 }), 'ERR_OUT_OF_RANGE')
  refused(() => native.bindSocket({ kind: 'tcp', host: '::1%none', port: 0 }), 'ERR_OUT_OF_RANGE')
  refused(() => native.bindSocket(null), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.connectUnix(join(folder, 'none'), false), 'ENOENT')
  refused(() => native.connectDatagram(join(folder, 'none'), false), 'ENOENT')
  refused(() => native.listen(never, 1), 'EBADF')
  const all = [...listeners, client, accepted, notifier, connected, ...(pidfd === null ? [] : [pidfd])]
  assert.ok(native.inspect([...all, never, 0]).length === all.length + 2)
  assert.equal(native.firstNotStream([client, accepted, listeners[0]]), 2)
  assert.deepEqual(native.hangups([client, accepted]), [0, 0])
  assert.notEqual(native.namesSocket(listeners[2], path), false)
  refused(() => native.hangups([never]), 'EBADF')
  assert.equal(native.firstNotStream([never]), 0)
  native.closeMany(all)
  refused(() => native.closeMany([never]), 'EBADF')
  for (const lane of [7, -1, -2, -3, -4, -5, -6, -7, -8])
    native.closeAside(lane, [native.memfd('aside'), ...native.socketPair()])
  assert.ok(native.closingAside(7) <= 3)
  refused(() => native.close(never), 'EBADF')
  void native.makeRoom(1_000)
}

function messages() {
  const [a, b] = native.socketPair()
  const memory = native.memfd('message')
  for (const count of [0, 1, 64, 253]) {
    native.sendMessage(a, bytes, 10, 100, count === 0 ? null : new Array(count).fill(memory))
    const got = native.receiveMessage(b, bytes, 0, bytes.length)
    assert.equal(got.fds?.length ?? 0, count)
    if (got.fds !== null) native.closeMany(got.fds)
  }
  assert.equal(native.receiveMessage(b, bytes, 0, 1).bytes, -1)
  const [quiet, loud] = native.socketPair()
  assert.equal(native.stopReceiving(quiet), true)
  native.sendMessage(quiet, bytes, 0, 1, [quiet])
  assert.equal(native.stopReceiving(loud), false)
  assert.equal(native.stopReceiving(never), false)
  native.close(quiet)
  native.close(loud)
  refused(() => native.sendMessage(a, bytes, 0, 1, new Array(254).fill(memory)), 'EINVAL')
  refused(() => native.sendMessage(a, bytes, 0, 1, [never]), 'EBADF')
  refused(() => native.sendMessage(a, bytes, 0, 1, ['x']), 'ERR_OUT_OF_RANGE')
  refused(() => native.sendMessage(a, bytes, 4096, 1, null), 'ERR_OUT_OF_RANGE')
  refused(() => native.receiveMessage(a, 'x', 0, 1), 'ERR_INVALID_ARG_TYPE')
  assert.equal(native.receiveDatagram(b, bytes, 0, 1).bytes, -1)
  refused(() => native.receiveDatagram(never, bytes, 0, 1), 'EBADF')
  while (native.sendMessage(a, bytes, 0, bytes.length, null) > 0);
  native.close(b)
  refused(() => native.sendMessage(a, bytes, 0, 1, null), 'EPIPE')
  refused(() => native.send(a, bytes, 0, 1, null, 0, 0), 'EPIPE')
  native.closeMany([a, memory])
}

function datagrams() {
  const data = Buffer.from('datagram')
  const ends = Buffer.alloc(40)
  for (const [host, own] of [
    ['127.0.0.1', '127.0.0.1'],
    ['::', '::1'],
    ['::', '127.0.0.1'],
  ]) {
    const front = native.bindSocket({ kind: 'udp', host, port: 0, ipv6Only: false })
    native.setOption(front, 'tellAddress', true)
    native.setOption(front, 'longQueue', true)
    const { port } = native.inspect([front])[0]
    const client = native.connectUdp(own, port)
    assert.equal(native.receiveFrom(front, bytes, 0, 9, ends), -1)
    assert.equal(native.arrival(front), -1)
    native.send(client, data, 0, 8, null, 0, 0)
    const arrival = native.arrival(front)
    assert.ok(Math.abs(arrival / 1e6 - Date.now()) < 60_000)
    native.send(client, data, 0, 8, null, 0, 0)
    assert.equal(native.arrival(front), arrival)
    assert.equal(native.receiveFrom(front, bytes, 0, 9, ends), 8)
    assert.ok(native.arrival(front) > arrival)
    assert.equal(native.receiveFrom(front, bytes, 0, 9, ends), 8)
    for (const length of [0, 8]) {
      native.send(client, data, 0, length, null, 0, 0)
      assert.equal(native.receiveFrom(front, bytes, 0, 9, ends), length)
      assert.equal(native.peerOfEnds(ends), own)
      assert.equal(native.sendTo(front, data, 0, length, ends), length)
      assert.equal(native.receive(client, bytes, 0, 9), length)
    }
    native.closeMany([front, client])
  }
  refused(() => native.connectUdp('localhost', 1), 'ERR_OUT_OF_RANGE')
  refused(() => native.setOption(never, 'longQueue', true), 'EBADF')
  refused(() => native.setOption(never, 'tellAddress', true), 'EBADF')
  refused(() => native.receiveFrom(never, bytes, 0, 1, ends), 'EBADF')
  refused(() => native.arrival(never), 'EBADF')
  refused(() => native.receiveFrom(never, bytes, 0, 1, Buffer.alloc(39)), 'ERR_OUT_OF_RANGE')
  refused(() => native.sendTo(never, bytes, 0, 1, ends), 'EBADF')
  refused(() => native.peerOfEnds('x'), 'ERR_INVALID_ARG_TYPE')
}

function sends() {
  const [a, b] = native.socketPair()
  assert.equal(native.send(a, bytes, 4095, 1, bytes, 0, 4), 5)
  assert.equal(native.send(a, bytes, 0, bytes.length, null, 0, 0), bytes.length)
  assert.equal(native.send(a, bytes, 0, bytes.length, bytes, 0, 0), bytes.length)
  assert.equal(native.send(a, bytes, 0, 4095, bytes, 0, 1), 4096)
  assert.equal(native.send(a, bytes, 0, bytes.length, bytes, 0, 1), bytes.length + 1)
  refused(() => native.send(a, bytes, 0, 1, bytes, 4096, 1), 'ERR_OUT_OF_RANGE')
  refused(() => native.send(a, bytes, 4096, 1, null, 0, 0), 'ERR_OUT_OF_RANGE')
  refused(() => native.send(a, 'x', 0, 1, null, 0, 0), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.send(a, bytes, 0, 1, {}, 0, 0), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.send(never, bytes, 0, 1, null, 0, 0), 'EBADF')
  while (native.send(a, bytes, 0, 1, bytes, 0, bytes.length) > 0);
  native.closeMany([a, b])
}

function streams() {
  const set = native.createEpoll()
  const [a, b] = native.socketPair()
  native.send(a, bytes, 0, 4, null, 0, 0)
  if (set !== null) {
    const ready = new Int32Array(9)
    const ask = (of, into, eager = new Uint8Array(0), slot = 16, budget = 64) =>
      native.askEpoll(of, into, eager, bytes.subarray(0, 64), slot, budget)
    native.setEpoll(set, b, 0, 1)
    native.setEpoll(set, a, 0, 2)
    assert.equal(ask(set, ready), 2)
    native.setEpoll(set, b, 1, 3)
    assert.equal(ask(set, ready.subarray(6)), 1)
    native.setEpoll(set, b, 3, 1)
    native.send(a, bytes, 0, 40, null, 0, 0)
    const eager = new Uint8Array(b + 1).fill(1)
    native.setEpoll(set, a, 2, 0)
    const read = () => [ask(set, ready, eager), ready[2]]
    assert.deepEqual(
      [read(), read()],
      [
        [1, 16],
        [1, 16],
      ],
    )
    assert.deepEqual([ask(set, ready, eager, 16, 0), ready[2]], [1, -1])
    assert.deepEqual([read(), ask(set, ready, eager)], [[1, 12], 0])
    assert.equal(native.failure(104, 'recv').code, 'ECONNRESET')
    native.setEpoll(set, b, 1, 0)
    native.send(a, bytes, 0, 4, null, 0, 0)
    refused(() => native.setEpoll(set, never, 0, 1), 'EBADF')
    refused(() => native.setEpoll(set, a, 0, 4), 'ERR_OUT_OF_RANGE')
    refused(() => ask(a, ready), 'EINVAL')
    refused(() => ask(set, ready.subarray(7)), 'ERR_OUT_OF_RANGE')
    refused(() => ask(set, ready, eager, 65), 'ERR_OUT_OF_RANGE')
    refused(() => ask(set, bytes), 'ERR_INVALID_ARG_TYPE')
    refused(() => ask(set, ready, ready), 'ERR_INVALID_ARG_TYPE')
    refused(() => native.failure(1, 2), 'ERR_INVALID_ARG_TYPE')
    native.close(set)
  }
  assert.equal(native.peek(b, bytes, 0, 9), 4)
  refused(() => native.peek(never, bytes, 0, 1), 'EBADF')
  assert.deepEqual([native.receive(b, bytes, 4093, 3), native.receive(b, bytes, 0, 9)], [3, 1])
  assert.equal(native.receive(b, bytes, 0, 9), -1)
  refused(() => native.receive(b, bytes, 0, 0), 'ERR_OUT_OF_RANGE')
  refused(() => native.receive(never, bytes, 0, 1), 'EBADF')
  native.shutDown(a)
  native.resetAtClose(a)
  assert.equal(native.receive(b, bytes, 0, 9), 0)
  refused(() => native.shutDown(never), 'EBADF')
  refused(() => native.resetAtClose(never), 'EBADF')
  native.closeMany([a, b])
}

function splices() {
  if (process.platform !== 'linux') return
  const [a, b] = native.socketPair()
  const [c, d] = native.socketPair()
  const [out, into] = native.openPipe()
  const result = new Int32Array(2)
  assert.equal(native.splice(b, c, out, into, 9, result), -1)
  native.send(a, bytes, 0, 9, null, 0, 0)
  assert.equal(native.splice(b, c, out, into, 5, result), 5)
  native.close(d)
  assert.equal(native.splice(b, c, out, into, 9, result), 4)
  assert.equal(result[0], 4)
  native.readPipe(out, bytes, 0, 4)
  refused(() => native.readPipe(out, bytes, 0, 1), 'EAGAIN')
  refused(() => native.splice(b, c, out, into, 0, result), 'ERR_OUT_OF_RANGE')
  refused(() => native.splice(b, c, out, into, 1, bytes), 'ERR_INVALID_ARG_TYPE')
  native.closeMany([a, b, c, out, into])
}

function sums() {
  const ranges = Uint32Array.from([0, 1, 1, 2])
  native.addSums(new Uint32Array(8), bytes, bytes, ranges, 1, 4)
  refused(() => native.addSums(new Uint32Array(7), bytes, bytes, ranges, 1, 4), 'ERR_OUT_OF_RANGE')
  refused(() => native.addSums(new Uint32Array(8), bytes, bytes, ranges, 2, 4), 'ERR_OUT_OF_RANGE')
  refused(() => native.addSums('x', bytes, bytes, ranges, 1, 4), 'ERR_INVALID_ARG_TYPE')
}

function changes() {
  // A put of "key" in section "s", then what is cut off at each length, and bytes that are no change.
  const put = Buffer.from([10, 1, 115, 26, 3, 107, 101, 121, 34, 2, 118, 118, 40, 3])
  const into = new Uint32Array(20)
  const scan = (buffer, ranges, count, first = 0, most = 100) =>
    native.scanRuns(buffer, Uint32Array.from(ranges), first, count, most, into)
  scan(put, [0, put.length, 0, put.length], 2)
  assert.deepEqual([into[0], into[2], into[5], into[6], into[10]], [2, 3, 5, 8, 1])
  for (let end = 0; end < put.length; end++) scan(put, [0, end], 1)
  for (let byte = 0; byte < 256; byte++) scan(Buffer.alloc(20, byte), [0, 20], 1)
  scan(Buffer.alloc(0), [0, 0], 1)
  scan(put, [], 0)
  refused(() => scan(put, [0, put.length + 1], 1), 'ERR_OUT_OF_RANGE')
  refused(() => scan(put, [2, 1], 1), 'ERR_OUT_OF_RANGE')
  refused(() => scan(put, [0, 0, 0, 0], 3), 'ERR_OUT_OF_RANGE')
  refused(() => scan(put, [0, 0, 0, 0], 2, 1), 'ERR_OUT_OF_RANGE')
  refused(() => scan(put, [0, 0, 0, 0, 0, 0], 3), 'ERR_OUT_OF_RANGE')
  refused(() => scan(put, [0, 0], 1, -1), 'ERR_OUT_OF_RANGE')
  refused(() => native.scanRuns(put, put, 0, 1, 7, into), 'ERR_INVALID_ARG_TYPE')
  const before = new Uint32Array(22).fill(7)
  native.scanChanges(put, Uint32Array.from([0, put.length, 0, put.length]), 2, 0, before)
  assert.deepEqual([before[0], before[1], before[11]], [0, 7, 0])
  refused(() => native.scanChanges(put, new Uint32Array(6), 3, 0, before), 'ERR_OUT_OF_RANGE')
  refused(() => scan('x', [0, 0], 1), 'ERR_INVALID_ARG_TYPE')

  const record = Buffer.concat([Buffer.from([34, put.length]), put, Buffer.from([34, put.length]), put])
  const found = new Uint32Array(6)
  assert.equal(native.findChanges(record, 0, record.length, found), 2)
  assert.deepEqual([...found], [2, 16, 18, 32, 0, 0])
  for (let end = 0; end < record.length; end++) native.findChanges(record, 0, end, found)
  assert.equal(native.findChanges(record, 0, record.length, new Uint32Array(3)), 1)
  assert.equal(native.findChanges(Buffer.alloc(0), 0, 0, found), 0)
  refused(() => native.findChanges(record, 0, record.length + 1, found), 'ERR_OUT_OF_RANGE')
  refused(() => native.findChanges(record, 2, 1, found), 'ERR_OUT_OF_RANGE')
  puts(put)
  keys(put)
}

/** Three records of one put each, cut off at each length, and with another byte at each place. */
function puts(put) {
  const record = number => Buffer.concat([Buffer.from([8, 7, 16, number, 34, put.length]), put])
  const framed = bytes => {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(bytes.length)
    head.writeUInt32LE(zlib.crc32(bytes), 4)
    return Buffer.concat([head, bytes])
  }
  const log = Buffer.concat([1, 2, 3].map(number => framed(record(number))))
  const size = log.length / 3
  const found = new Uint32Array(6)
  const find = (buffer, end = buffer.length, sequence = 1, into = found, epoch = 7, most = 99, key = 9) =>
    native.findPuts(buffer, 0, end, epoch, sequence, most, key, into)
  assert.equal(find(log), 3)
  assert.deepEqual([...found], [14, size, size + 14, 2 * size, 2 * size + 14, 3 * size])
  for (let end = 0; end < log.length; end++) assert.equal(find(log, end), Math.floor(end / size))
  for (let at = 0; at < log.length; at++) {
    const other = Buffer.from(log)
    other[at] ^= 0x81
    assert.equal(find(other), Math.floor(at / size))
  }
  assert.deepEqual([find(log, log.length, 2), find(log, log.length, 1, new Uint32Array(5))], [0, 2])
  assert.deepEqual([find(log, log.length, 1, found, 8), find(log, log.length, 1, found, 7, 10)], [0, 0])
  assert.equal(find(log, log.length, 1, found, 7, 99, 2), 0)
  refused(() => find(log, log.length + 1), 'ERR_OUT_OF_RANGE')
  refused(() => find(log, log.length, -1), 'ERR_OUT_OF_RANGE')
  refused(() => find(log, log.length, 1, log), 'ERR_INVALID_ARG_TYPE')
}

/** An index with so many keys that they are divided, one that has no memory, and some that the garbage collector frees. */
function keys(put) {
  const fields = new Uint32Array(20)
  native.scanRuns(put, Uint32Array.from([0, put.length, 0, put.length]), 0, 2, 100, fields)
  const [values, before] = [Uint32Array.from([5, 6]), new Uint32Array(2)]
  const index = native.createKeys(1e9)
  assert.equal(native.setKeys(index, put, fields, 0, 2, values, before), 2)
  assert.deepEqual([...before], [2 ** 32 - 1, 5])
  native.findKeys(index, put, fields, 0, 2, before)
  assert.deepEqual([...before], [6, 6])
  for (let i = 0; i < 17_000; i++) native.setKey(index, `key-${i}`, i)
  for (let i = 0; i < 17_000; i += 2) assert.equal(native.deleteKey(index, `key-${i}`), true)
  for (let i = 0; i < 17_000; i++) assert.equal(native.getKey(index, `key-${i}`), i % 2 ? i : undefined)
  let left = 0
  for (let part = 0; part < 256; part++) left += native.keysIn(index, part)[0].length / 2
  assert.equal(left, 8501)
  const small = native.createKeys(200)
  refused(() => native.setKey(small, 'key', 1), 'ENOMEM')
  refused(() => native.setKeys(small, put, fields, 0, 2, values, before), 'ENOMEM')
  refused(() => native.setKeys(index, put.subarray(0, 2), fields, 0, 2, values, before), 'ERR_OUT_OF_RANGE')
  refused(() => native.createKeys(1), 'ENOMEM')
  refused(() => native.getKey({}, 'key'), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.setKey(index, '\ud83d', 1), 'ERR_INVALID_ARG_TYPE')
  for (let i = 0; i < 50; i++) native.setKey(native.createKeys(1e9), `${'key'.repeat(300)}${i}`, null)
  global.gc()
}

async function files() {
  native.close(native.watchPaths(folder, [join(folder, 'none')]))
  const memory = native.memfd('files')
  native.pwrite(memory, bytes, 0, bytes.length, 5)
  native.pread(memory, bytes, 0, bytes.length, 0)
  assert.equal(native.fileSize(memory), bytes.length + 5)
  const appended = native.memfd('fdb-events')
  native.appendAlways(appended)
  native.pwrite(appended, bytes, 0, bytes.length, 0)
  native.freeStart(appended, 1)
  native.close(appended)
  const reader = native.reopenReadOnly(memory)
  refused(() => native.addSeals(reader, 8), 'EPERM')
  native.addSeals(memory, 8)
  await native.addSealsAside(memory, 2)
  assert.equal(await native.addSealsAside(reader, 8).catch(({ code }) => code), 'EPERM')
  assert.equal(native.getSeals(reader) & ~32, 10)
  refused(() => native.pwrite(memory, bytes, 0, 1, 0), 'EPERM')
  refused(() => native.memfd('x'.repeat(1000)), 'ERR_OUT_OF_RANGE')
  writeFileSync(join(folder, 'lock'), '')
  const lock = native.openLockFile(join(folder, 'lock'), 0o600)
  const other = native.openLockFile(join(folder, 'lock'), 0o600)
  assert.deepEqual([native.tryLock(lock), native.tryLock(other)], [true, false])
  assert.deepEqual([native.lockRange(lock, 2, 3, 4), native.lockRange(other, 1, 3, 1)], [true, false])
  assert.deepEqual([native.findLock(other, 2, 0, 9), native.findLock(lock, 2, 0, 9)], [[3, 7], null])
  refused(() => native.openLockFile('/'.padEnd(9000, 'x'), 0o600), 'ENAMETOOLONG')
  native.getSeals(lock)
  const dup = native.dup(lock)
  native.setCloexec(dup, false)
  native.setCloexec(dup, true)
  native.release(dup)
  native.adopt(dup)
  const pidfd = native.pidfdOpen(process.pid)
  if (pidfd !== null) {
    native.pidfdSignal(pidfd, 0)
    native.close(native.pidfdTake(pidfd, 0))
    refused(() => native.pidfdTake(pidfd, never), 'EBADF')
    assert.equal(native.pidfdPid(pidfd), process.pid)
    assert.equal(native.pidfdDead(pidfd), false)
    native.close(pidfd)
  } else {
    // Not to be called where there is no descriptor of a process: other systems, and valgrind before 3.22.
    for (const name of ['pidfdSignal', 'pidfdTake', 'pidfdPid', 'pidfdDead']) made.add(name)
  }
  native.closeMany([memory, reader, lock, other, dup])
}

async function children() {
  // Before all others, which start processes with and without the thread.
  await childrenOf()
  if (process.platform === 'linux' && !UNDER_VALGRIND) {
    assert.ok(native.openStarter())
    await childrenOf()
    assert.ok(native.startsApart())
    native.closeStarter()
  } else made.add('openStarter').add('closeStarter').add('startsApart')
}

async function childrenOf() {
  assert.ok(native.adoptOrphans() || process.platform !== 'linux')
  assert.equal(native.endedChild(), -1)
  const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
  assert.equal(native.endedChild(), 0)
  assert.equal(native.reapChild(child.pid), null)
  child.stdin.end()
  await new Promise(resolve => child.once('exit', resolve))
  assert.equal(native.reapChild(child.pid), null)
  const strings = (...texts) => Buffer.from(texts.map(text => `${text}\0`).join(''))
  const [a, b] = native.socketPair()
  native.setBlocking(a, true)
  const env = strings('OWN=0000000000', 'PATH=/usr/bin:/bin')
  const pid = native.spawn(strings('/bin/sh', '/', 'sh', '-c', 'test $OWN = $$'), env, 4, [b, a], 9)
  let status = null
  while ((status = native.reapChild(pid)) === null) await new Promise(resolve => setTimeout(resolve, 5))
  assert.equal(status, 0)
  if (process.platform === 'linux' && !UNDER_VALGRIND) {
    const [program, guardian, leash] = native.spawnGuarded(
      strings('/bin/true', '/', 'true'),
      strings('A=b'),
      [0, 1, 2],
    )
    assert.ok(program > 0)
    native.close(leash)
    // This process has adopted orphans: the program is its child from then on.
    for (const pid of [guardian, program])
      while (native.reapChild(pid) === null) await new Promise(resolve => setTimeout(resolve, 5))
    const marks = native.memfd('marks')
    native.close(native.killAtEnd(marks))
    let ended = 0
    while ((ended = native.endedChild()) === 0) await new Promise(resolve => setTimeout(resolve, 5))
    assert.equal(native.reapChild(ended), 0)
    native.close(marks)
  } else made.add('spawnGuarded').add('killAtEnd')
  if (!UNDER_VALGRIND) refused(() => native.spawnGuarded(strings('/none', '', 'x'), env, [0, 1, 2]), 'ENOENT')
  refused(() => native.spawn(strings('/none', '', 'x'), env, -1, [], 0), 'ENOENT')
  refused(() => native.spawn(strings('/bin/sh', '', 'x'), env, -1, [never], 0), 'EBADF')
  refused(() => native.spawn(strings('/bin/sh'), env, -1, [], 0), 'ERR_OUT_OF_RANGE')
  refused(() => native.spawn('x', env, -1, [], 0), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.execute(strings('/none', '/', 'x'), env, [b, a]), 'ENOENT')
  refused(() => native.execute(strings('/none', '/', 'x'), env, [b, a], 3), 'ENOENT')
  refused(() => native.execute(strings('/none', '/', 'x'), env, [never], 3), 'EBADF')
  refused(() => native.execute(strings('/bin/sh'), env, []), 'ERR_OUT_OF_RANGE')
  refused(() => native.execute('x', env, []), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.setBlocking(never, true), 'EBADF')
  native.holdSignals(1 << 11)
  refused(() => native.holdSignals(0), 'ERR_OUT_OF_RANGE')
  native.releaseSignals()
  assert.equal(native.releaseSignals(), false)
  refused(() => native.holdSignals(-1), 'ERR_OUT_OF_RANGE')
  native.closeMany([a, b])
}

async function polls() {
  const [a, b] = native.socketPair()
  for (let i = 0; i < 20; i++) {
    await new Promise(resolve => {
      const poll = native.createPoll(b, () => {
        native.receiveMessage(b, bytes, 0, bytes.length)
        poll.stop()
        poll.close()
        resolve()
      })
      poll.unref()
      poll.ref()
      poll.start(1)
      native.sendMessage(a, bytes, 0, 1, null)
    })
  }
  refused(() => native.createPoll(never, () => {}), 'EBADF')
  native.setBlocking(b, true)
  native.createPoll(b, () => {}, true).close()
  refused(() => native.createPoll(b, () => {}, 1), 'ERR_INVALID_ARG_TYPE')
  await new Promise(resolve => {
    const pauses = native.watchPauses(1, () => {
      pauses.close()
      resolve()
    })
    refused(() => pauses.start(1), 'EBADF')
    pauses.stop()
    pauses.ref()
    setTimeout(() => {}, 20)
  })
  // A watched signal keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  for (const last of [false, true]) {
    const got = await new Promise(resolve => {
      const watch = native.watchSignal(12, own => {
        if (last) watch.close()
        resolve(own)
        if (!last) watch.close()
      })
      process.kill(process.pid, 12)
    })
    assert.equal(got, 1)
  }
  clearInterval(alive)
  refused(() => native.watchSignal(9, () => {}), 'EINVAL')
  native.closeMany([a, b])
}

function secured() {
  native.beginTls()
  const socket = new tls.TLSSocket(undefined, { isServer: true })
  const made = native.madeTls()
  // Null where Node's OpenSSL is of no use to an addon.
  if (made !== null) {
    assert.equal(native.writeTls(made, bytes, bytes.subarray(0, 1)), false)
    refused(() => native.writeTls(made, bytes, bytes.subarray(0, 0)), 'ERR_OUT_OF_RANGE')
    assert.equal(native.amidTlsRecord(made, bytes), null)
  }
  assert.equal(native.madeTls(), null)
  refused(() => native.writeTls({}, bytes, bytes), 'ERR_INVALID_ARG_TYPE')
  refused(() => native.amidTlsRecord({}, bytes), 'ERR_INVALID_ARG_TYPE')
  for (const [suite, length] of [32, 48, 32].entries()) {
    const [secret, record] = [Buffer.alloc(length), Buffer.alloc(27)]
    for (let number = 0; number < 3; number++) native.sealKeyUpdate(suite, secret, number, record)
  }
  refused(() => native.sealKeyUpdate(0, bytes, 0, bytes), 'ERR_OUT_OF_RANGE')
  socket.destroy()
}

async function workers() {
  assert.ok(native.threadCpuMs() > 0)
  for (const how of ['terminate', 'exit']) {
    const worker = new Worker(new URL('children/worker.mjs', import.meta.url))
    const given = await new Promise(resolve => worker.once('message', message => resolve(message.given)))
    const exit = new Promise(resolve => worker.once('exit', resolve))
    if (how === 'exit') worker.postMessage('exit')
    else worker.terminate()
    await exit
    native.close(given)
  }
}

try {
  const start = native.openCount()
  for (let round = 0; round < 3; round++) {
    sockets()
    rmSync(join(folder, 's'))
    rmSync(join(folder, 'd'))
    messages()
    datagrams()
    sends()
    streams()
    splices()
    sums()
    changes()
    secured()
    await files()
    await children()
    await polls()
  }
  await workers()
  await children()
  assert.equal(native.openCount(), start)
  assert.deepEqual(
    Object.getOwnPropertyNames(addon).filter(name => !made.has(name)),
    [],
  )
  globalThis.gc?.()
  // Left open on purpose: the end of the main environment closes them.
  native.createPoll(native.socketPair()[0], () => {}).unref()
  native.watchPauses(1000, () => {})
  native.watchSignal(12, () => {})
  process.stdout.write('exercised\n')
} finally {
  rmSync(folder, { recursive: true, force: true })
}
