import { AsyncLocalStorage } from 'node:async_hooks'
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { DISCONNECT, native, type Poll, READABLE, WRITABLE } from '../../src/kernel/native.js'
import { descriptors, flagsOf, NONBLOCK, openDescriptors, thrown } from './support.js'

const keep = descriptors()
const byte = Buffer.from('x')

/** The first event that a poll with these bits reports. */
function first(
  fd: number,
  events: number,
  act: (poll: Poll) => void = () => {},
  shared = false,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const seen = (events: number, error: Error | null) => {
      poll.close()
      if (error === null) resolve(events)
      else reject(error)
    }
    const poll = native.createPoll(fd, seen, shared)
    poll.start(events)
    act(poll)
  })
}

const turn = () => new Promise<void>(resolve => setImmediate(resolve))

describe('createPoll', () => {
  it('reports readable, writable and disconnect', async () => {
    const [a, b] = keep(native.socketPair())
    expect(await first(b!, WRITABLE)).toBe(WRITABLE)
    expect(await first(b!, READABLE, () => native.sendMessage(a!, byte, 0, 1, null))).toBe(READABLE)
    native.receiveMessage(b!, Buffer.alloc(8), 0, 8)
    expect(await first(b!, DISCONNECT, () => native.close(a!))).toBe(DISCONNECT)
  })

  it('reports levels, and nothing while stopped', async () => {
    const [a, b] = keep(native.socketPair())
    let seen = 0
    const poll = native.createPoll(b!, () => {
      if (++seen === 3) poll.stop()
    })
    poll.start(READABLE)
    native.sendMessage(a!, byte, 0, 1, null)
    while (seen < 3) await turn()
    await turn()
    await turn()
    expect(seen).toBe(3)
    poll.start(READABLE)
    while (seen < 4) await turn()
    poll.start(0)
    const now = seen
    await turn()
    await turn()
    expect(seen).toBe(now)
    poll.close()
  })

  it('may be closed within its callback, twice, and refuses to start again', async () => {
    const [, b] = keep(native.socketPair())
    const poll = await new Promise<Poll>(resolve => {
      const watching = native.createPoll(b!, () => {
        watching.close()
        watching.close()
        resolve(watching)
      })
      watching.start(WRITABLE)
    })
    poll.stop()
    poll.ref()
    poll.unref()
    poll.close()
    expect(thrown(() => poll.start(READABLE))).toMatchObject({ code: 'EBADF', syscall: 'poll' })
  })

  it('lets waiting data be read after the other end died with unread data', async () => {
    const [a, b] = keep(native.socketPair())
    native.sendMessage(a!, Buffer.from('last words'), 0, 10, null)
    native.sendMessage(b!, byte, 0, 1, null)
    native.close(a!) // with unread data: the socket at our end now has the error ECONNRESET
    const results: Array<number | string> = []
    await new Promise<void>(resolve => {
      const poll = native.createPoll(b!, (events, error) => {
        expect(error).toBeNull()
        expect(events & READABLE).toBe(READABLE)
        try {
          const { bytes } = native.receiveMessage(b!, Buffer.alloc(64), 0, 64)
          results.push(bytes)
          if (bytes !== 0) return
        } catch (failure) {
          results.push((failure as { code: string }).code)
          return
        }
        poll.close()
        resolve()
      })
      poll.start(READABLE)
    })
    expect(results).toContain(10)
    expect(results.at(-1)).toBe(0)
  })

  it('ends the blocking mode of a socket, so that no call on it waits', async () => {
    const [, b] = keep(native.socketPair())
    native.setBlocking(b!, true)
    expect(await first(b!, WRITABLE)).toBe(WRITABLE)
    expect(flagsOf(b!) & NONBLOCK).toBe(NONBLOCK)
  })

  it('leaves a socket in blocking mode that other processes share, and reports the same of it', async () => {
    const before = openDescriptors()
    const [a, b] = keep(native.socketPair())
    native.setBlocking(b!, true)
    expect(await first(b!, WRITABLE, undefined, true)).toBe(WRITABLE)
    expect(await first(b!, READABLE, () => native.sendMessage(a!, byte, 0, 1, null), true)).toBe(READABLE)
    native.receiveMessage(b!, Buffer.alloc(8), 0, 8)
    let seen = 0
    const count = () => {
      seen++
    }
    const poll = native.createPoll(b!, count, true)
    poll.start(WRITABLE)
    while (seen < 2) await turn()
    poll.start(0)
    const now = seen
    for (let i = 0; i < 3; i++) await turn()
    expect(seen).toBe(now)
    poll.close()
    expect(await first(b!, DISCONNECT, () => native.close(a!), true)).toBe(DISCONNECT)
    expect(flagsOf(b!) & NONBLOCK).toBe(0)
    native.close(b!)
    // libuv closes in the next turn.
    await turn()
    await turn()
    expect(openDescriptors()).toBe(before)
  })

  it('keeps the async context of its maker', async () => {
    const storage = new AsyncLocalStorage<string>()
    const [, b] = keep(native.socketPair())
    const seen = await storage.run(
      'mine',
      () =>
        new Promise<string | undefined>(resolve => {
          const poll = native.createPoll(b!, () => {
            poll.close()
            resolve(storage.getStore())
          })
          poll.start(WRITABLE)
        }),
    )
    expect(seen).toBe('mine')
  })

  it('refuses a closed descriptor, a file, the same descriptor twice, and bad arguments', () => {
    const [, b] = keep(native.socketPair())
    expect(thrown(() => native.createPoll(99_999, () => {}))).toMatchObject({
      code: 'EBADF',
      syscall: 'poll',
    })
    expect(thrown(() => native.createPoll(keep(native.memfd('m')), () => {}))).toMatchObject({
      code: 'EPERM',
    })
    expect(thrown(() => native.createPoll(b!, 'x' as never))).toBeInstanceOf(TypeError)
    const poll = native.createPoll(b!, () => {})
    expect(thrown(() => poll.start(8))).toBeInstanceOf(RangeError)
    poll.start(READABLE)
    expect(thrown(() => native.createPoll(b!, () => {}))).toMatchObject({ code: 'EEXIST' })
    expect(thrown(() => poll.start.call({} as Poll, 1))).toBeInstanceOf(TypeError)
    expect(thrown(() => poll.start.call(1 as never, 1))).toBeInstanceOf(TypeError)
    poll.close()
  })

  it('makes an exception of the callback an uncaught one, and unref lets the process end', () => {
    const script = fileURLToPath(new URL('children/poll.mjs', import.meta.url))
    const printed = execFileSync(process.execPath, [script], { encoding: 'utf8' })
    expect(printed).toBe('uncaught: from the callback\nstill watching: 2\n')
  })
})

describe('watchPauses', () => {
  const busy = (ms: number) => {
    const until = performance.now() + ms
    while (performance.now() < until);
  }

  it('reports a long turn of the event loop before the timers of that turn, and none once it is closed', async () => {
    const seen: string[] = []
    const watch = native.watchPauses(20, ms => {
      expect(ms).toBeGreaterThanOrEqual(20)
      seen.push('pause')
    })
    await turn()
    // The end of this promise is the poll phase of a turn, before its timers.
    const [a, b] = keep(native.socketPair())
    await first(b!, READABLE, () => native.sendMessage(a!, byte, 0, 1, null))
    seen.length = 0
    const timer = new Promise<void>(resolve =>
      setTimeout(() => {
        seen.push('timer')
        resolve()
      }, 1),
    )
    busy(30)
    await timer
    expect(seen.slice(0, 2)).toEqual(['pause', 'timer'])
    watch.close()
    seen.length = 0
    busy(30)
    await turn()
    await turn()
    expect(seen).toEqual([])
    watch.close()
  })

  it('checks its arguments', () => {
    for (const ms of [0, 0.5, 2 ** 31])
      expect(thrown(() => native.watchPauses(ms, () => {}))).toBeInstanceOf(Error)
    expect(thrown(() => native.watchPauses(1, undefined as never))).toBeInstanceOf(TypeError)
  })
})
