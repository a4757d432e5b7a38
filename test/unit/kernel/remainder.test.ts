import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import {
  connectToUnix,
  hasPolledSockets,
  OwnedFd,
  openFile,
  PolledSocket,
  peerLives,
  READABLE,
  sendMessage,
  socketPair,
  writeAt,
  writeNow,
} from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { until } from '../../processes/until.js'

const polls = vi.spyOn(native, 'createPoll').mockImplementationOnce(() => {
  throw native.failure(constants.errno.ENOSPC, 'epoll_ctl')
})
const openBefore = native.openCount()
let refused: unknown
try {
  hasPolledSockets()
} catch (error) {
  refused = error
}
const openAfter = native.openCount()
/** The one poll of all polled sockets: made by the first question. */
const supported = hasPolledSockets()
const poll = polls.mock.results[1]?.value
polls.mockRestore()

class Polled extends PolledSocket {
  told: number[] = []
  onReady = () => {}

  ready(_events: number, _chunk: Buffer, bytes: number): void {
    this.told.push(bytes)
    this.onReady()
  }

  /** Tells of what comes; read ahead where it is told to be. */
  want({ eager = false } = {}): void {
    if (eager) this.setEager(true)
    this.watch(READABLE)
  }

  end(): void {
    this.close()
  }
}

/** A polled socket and its peer, both closed behind the test. */
function polled(): { socket: Polled; peer: OwnedFd; say(): void } {
  const [ours, peer] = socketPair('polled')
  const socket = new Polled(ours)
  onTestFinished(() => {
    socket.end()
    peer.close()
  })
  return { socket, peer, say: () => void sendMessage(peer, Buffer.from('bytes'), 0, 5, []) }
}

describe.runIf(supported)('a polled socket', () => {
  it('leaves no descriptor if the kernel cannot watch the first one', () => {
    expect(refused).toMatchObject({ code: 'ENOSPC' })
    expect(openAfter).toBe(openBefore)
  })

  it('with the number of an eager one that was closed is not read ahead', async () => {
    const before = polled()
    before.socket.want({ eager: true })
    const number = before.socket.descriptor
    before.say()
    await until('the first is told', () => before.socket.told.length > 0)
    expect(before.socket.told[0]).toBe(5)
    before.socket.end()
    const now = polled()
    expect(now.socket.descriptor).toBe(number)
    now.socket.want()
    now.say()
    await until('the second is told', () => now.socket.told.length > 0)
    expect(now.socket.told[0]).toBe(-1)
  })

  it('with the number of one that was closed hears nothing of that one, though a duplicate of that is open', async () => {
    const before = polled()
    before.socket.want()
    const number = before.socket.descriptor
    const kept = OwnedFd.own(native.dup(number), 'duplicate')
    onTestFinished(() => kept.close())
    before.socket.end()
    const now = polled()
    expect(now.socket.descriptor).toBe(number)
    now.socket.want()
    const fence = polled()
    fence.socket.want()
    before.say()
    fence.say()
    await until('the last one is told', () => fence.socket.told.length > 0)
    expect(now.socket.told).toEqual([])
  })

  it('hears nothing more if another one has closed it in the same turn', async () => {
    const pair = [polled(), polled()]
    for (const one of pair) {
      one.socket.onReady = () => {
        for (const { socket } of pair) socket.end()
      }
      one.socket.want()
      one.say()
    }
    const both = () => pair.flatMap(({ socket }) => socket.told)
    await until('one is told', () => both().length > 0)
    await new Promise(resolve => setImmediate(resolve))
    expect(both()).toHaveLength(1)
  })

  it('keeps the event loop busy until the last one is closed', () => {
    const [start, stop] = [vi.spyOn(poll, 'start'), vi.spyOn(poll, 'stop')]
    onTestFinished(() => {
      start.mockRestore()
      stop.mockRestore()
    })
    const [one, other] = [polled(), polled()]
    expect(start).toHaveBeenCalledTimes(1)
    one.socket.end()
    expect(stop).not.toHaveBeenCalled()
    other.socket.end()
    expect(stop).toHaveBeenCalledTimes(1)
  })
})

describe('the process at the other end of a connection', () => {
  it('lives until it has ended, also when the connection is open still', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-kernel-'))
    const path = join(folder, 'socket')
    const program = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => console.log('up'))`
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
    onTestFinished(() => {
      child.kill('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    })
    await once(child.stdout, 'data')
    using connection = connectToUnix(path, 'connection')
    expect(peerLives(connection)).not.toBe(false)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(peerLives(connection)).not.toBe(true)
  })
})

describe('a write that the limit of the size of files cuts', () => {
  const LIMIT = 4_096
  const bytes = Buffer.concat([Buffer.alloc(LIMIT, 'a'), Buffer.alloc(LIMIT, 'b')])

  /** RLIMIT_FSIZE of this process, for as long as `write` takes. */
  function limited(write: () => void): void {
    const own = ['--pid', `${process.pid}`]
    const set = (soft: string | number) => execFileSync('prlimit', [...own, `--fsize=${soft}:`])
    const before = execFileSync('prlimit', [...own, '--fsize', '-o', 'SOFT', '--noheadings'])
    set(LIMIT)
    try {
      write()
    } finally {
      set(`${before}`.trim())
    }
  }

  function file(): string {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-kernel-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    return join(folder, 'file')
  }

  it('throws EFBIG, and leaves what has been written in its place', () => {
    const path = file()
    const fd = openSync(path, 'w')
    onTestFinished(() => closeSync(fd))
    let code: unknown
    limited(() => {
      try {
        writeNow({ fd }, bytes, 0)
      } catch (error) {
        code = (error as NodeJS.ErrnoException).code
      }
    })
    expect([code, readFileSync(path, 'latin1')]).toEqual(['EFBIG', 'a'.repeat(LIMIT)])
  })

  it('answers how much went, all of it in its place', () => {
    const path = file()
    const fd = openFile(path, 'w', 'file')
    onTestFinished(() => fd.close())
    let written = 0
    limited(() => {
      written = writeAt(fd, bytes, 0, bytes.length, 0)
    })
    expect([written, statSync(path).size, readFileSync(path, 'latin1')]).toEqual([
      LIMIT,
      LIMIT,
      'a'.repeat(LIMIT),
    ])
  })
})
