import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ForeignFds, memoryFile, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { closeAll } from '../../src/kernel/owned.js'
import { until } from '../processes/until.js'
import { descriptors, folders, openDescriptors, target } from './support.js'

const keep = descriptors()
const folder = folders()
const LANE = 12_001

/** Sends sockets whose last close waits for 60 s, because unsent data is in them. */
const LINGERING = `
import array, socket, struct, sys
kept = []
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
for _ in range(int(sys.argv[2])):
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    left = socket.create_connection(listener.getsockname())
    kept.append(listener.accept()[0])
    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 60))
    left.setblocking(False)
    try:
        while True:
            left.send(b'x' * 65536)
    except BlockingIOError:
        pass
    peer.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [left.fileno()]))])
    left.close()
print('sent', flush=True)
sys.stdin.read()
`

/** Lingering sockets that another process has sent; this process has the only descriptors. */
async function lingering(count: number): Promise<{ fds: number[]; end: () => void }> {
  const path = `${await folder()}/s`
  const listener = keep(native.bindSocket({ kind: 'unix', host: path, backlog: 1 }))
  const child = spawn('python3', ['-c', LINGERING, path, `${count}`], { stdio: ['pipe', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  const peer = keep(native.accept(listener))
  const fds: number[] = []
  while (fds.length < count) fds.push(...(native.receiveMessage(peer, new Uint8Array(1), 0, 1).fds ?? []))
  return { fds, end: () => child.stdin.end() }
}

const closed = (lane = LANE) => until('all are closed', () => native.closingAside(lane) === 0)

describe('closing descriptors aside', () => {
  it('closes all of them, also those of several lanes', async () => {
    const before = openDescriptors()
    const fds = Array.from({ length: 600 }, () => native.memfd('x'))
    native.closeAside(LANE, fds.slice(0, 300))
    native.closeAside(-1, fds.slice(300))
    await closed()
    await closed(-1)
    expect(fds.map(target)).toEqual(fds.map(() => null))
    expect([native.openCount(), openDescriptors()]).toEqual([0, before])
  })

  it('does not wait for sockets that linger, and cuts their wait short', async () => {
    const { fds, end } = await lingering(20)
    const last = native.memfd('after them')
    native.closeAside(LANE, [...fds, last])
    // Each would take 60 s.
    await closed()
    expect(target(last)).toBe(null)
    end()
  })

  it('closes those of a lane in order', async () => {
    const pairs = Array.from({ length: 50 }, () => native.socketPair())
    const [mine, theirs] = [pairs.map(([a]) => a), keep(pairs.map(([, b]) => b))]
    native.closeAside(LANE, mine)
    const gone = (fd: number) => native.hangups([fd])[0] === 1
    await until('a part is closed', () => gone(theirs[10]!))
    const ends = theirs.map(gone)
    expect(ends.slice(0, 10)).toEqual(Array(10).fill(true))
    await closed()
  })
})

describe('a connection of another user', () => {
  it('closes at once, but aside if descriptors wait in it', async () => {
    const foreign = new ForeignFds(LANE)
    const [a, b, c, d] = [...native.socketPair(), ...native.socketPair()]
    keep([a, c])
    const memory = native.memfd('in flight')
    native.sendMessage(a, new Uint8Array(9), 0, 9, null)
    native.sendMessage(c, new Uint8Array(9), 0, 9, [memory])
    native.close(memory)
    const [plain, laden] = [b, d].map(raw => OwnedFd.own(raw, 'connection').countAs(foreign))
    plain!.closeStream()
    expect([target(b), foreign.count]).toEqual([null, 1])
    laden!.closeStream()
    laden!.closeStream()
    await closed()
    expect([target(d), foreign.count, native.openCount()]).toEqual([null, 0, 2])
  })
})

describe('descriptors of another user', () => {
  it('count with their duplicates until they are closed', async () => {
    const foreign = new ForeignFds(LANE)
    const a = OwnedFd.ownReceived(native.memfd('a'), 'a', foreign)
    const b = a.dup()
    const c = b.share()
    expect(foreign.count).toBe(3 - 1)
    c.close()
    expect(foreign.count).toBe(2)
    closeAll([a, b])
    await until('none is left', () => foreign.count === 0)
    expect(native.openCount()).toBe(0)
  })

  it('count if they are counted later, too, and no longer if they are given away', async () => {
    const foreign = new ForeignFds(LANE)
    const shared = memoryFile('x', 'x')
    const other = shared.share()
    other.countAs(foreign)
    shared.countAs(foreign)
    expect(foreign.count).toBe(1)
    shared.close()
    const raw = keep(other.release())
    expect([foreign.count, readlinkSync(`/proc/self/fd/${raw}`)]).toEqual([0, expect.stringContaining('x')])
  })
})
