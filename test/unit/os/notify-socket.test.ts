import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { bindSocket, inspectOne, memoryFile, receiveMessage } from '../../../src/kernel/index.js'
import { startedAs } from '../../../src/os/command-line.js'
import { NotifySocket } from '../../../src/os/service-manager/notify-socket.js'
import { FdStore, PassedSockets } from '../../../src/os/service-manager/passed-sockets.js'
import { ServiceManager, Watchdog } from '../../../src/os/service-manager/service-manager.js'
import { openDescriptors } from '../../fixtures/open-descriptors.js'
import { NotifyRecorder } from '../../processes/notify-socket.js'
import { until } from '../../processes/until.js'

afterEach(() => void vi.useRealTimers())

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-notify-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

/** A manager that does not read before it is told to. */
function unread(path = join(folder(), 'notify')) {
  const socket = bindSocket({ kind: 'unix', host: path, datagram: true }, 'notify socket')
  onTestFinished(() => socket.close())
  const room = Buffer.alloc(4096)
  const read = () => {
    const texts: string[] = []
    for (;;) {
      const { bytes, fds } = receiveMessage(socket, room)
      for (const fd of fds ?? []) fd.close()
      if (bytes < 0) return texts
      texts.push(room.toString('utf8', 0, bytes))
    }
  }
  return { env: { NOTIFY_SOCKET: path }, read, close: () => socket.close() }
}

describe('messages to a service manager', () => {
  it('have one assignment a line, whatever a status says', async () => {
    const recorder = NotifyRecorder.open(folder())
    NotifySocket.of(recorder.env, () => {})!.send({ STATUS: 'one\nREADY=1\r\ntwo' })
    await until('it is heard', () => recorder.notes.length > 0)
    expect(recorder.notes).toEqual([{ STATUS: 'one READY=1 two' }])
  })

  it('waits for a manager that does not read, in order, and comes when it does', async () => {
    const { env, read } = unread()
    const socket = NotifySocket.of(env, () => {})!
    for (let n = 0; n < 900; n++) socket.send({ STATUS: n })
    const heard: string[] = []
    await until('all is heard', () => {
      heard.push(...read())
      return heard.length >= 900
    })
    expect(heard).toEqual(Array.from({ length: 900 }, (_, n) => `STATUS=${n}`))
  })

  it('come at once after each time that the manager did not read, and after each that it was away', async () => {
    const path = join(folder(), 'notify')
    const failed: unknown[] = []
    const socket = NotifySocket.of({ NOTIFY_SOCKET: path }, error => failed.push(error))!
    const ways = ['reads late', 'is away', 'reads late', 'is away', 'is away', 'reads late']
    for (const [round, way] of ways.entries()) {
      const { read, close } = unread(path)
      for (let n = 0; n < 700; n++) socket.send({ STATUS: `${round} ${n}` })
      const before = failed.length
      if (way === 'is away') {
        close()
        rmSync(path)
        await until('the messages are given up', () => failed.length > before)
        socket.send({ STATUS: 'lost' })
        expect([way, failed.length]).toEqual([way, before + 2])
        continue
      }
      const heard: string[] = []
      await until('all is heard', () => {
        heard.push(...read())
        return heard.length >= 700
      })
      socket.send({ STATUS: `${round} more` })
      expect(read()).toEqual([`STATUS=${round} more`])
      close()
      rmSync(path)
    }
  })

  it('number at most a thousand for one that never reads: the oldest are dropped, with their descriptors', async () => {
    const { env, read } = unread()
    const socket = NotifySocket.of(env, () => {})!
    using fd = memoryFile('kept', 'kept')
    for (let n = 0; n < 1_000; n++) socket.send({ STATUS: n })
    const before = openDescriptors()
    socket.send({ FDSTORE: 1, FDNAME: 'a' }, fd)
    for (let n = 0; n < 1_500; n++) socket.send({ STATUS: `later ${n}` })
    expect(openDescriptors()).toBe(before)
    const heard: string[] = []
    await until('the last is heard', () => {
      heard.push(...read())
      return heard.at(-1) === 'STATUS=later 1499'
    })
    expect(heard.length).toBeLessThan(1_700)
  })

  it('leaves no descriptor behind once it was heard, nor where nobody can hear it', async () => {
    const { env, read } = unread()
    using fd = memoryFile('kept', 'kept')
    const before = openDescriptors()
    NotifySocket.of(env, () => {})!.send({ FDSTORE: 1, FDNAME: 'a' }, fd)
    expect(read()).toHaveLength(1)
    expect(openDescriptors()).toBe(before)
    const failed: unknown[] = []
    NotifySocket.of({ NOTIFY_SOCKET: join(folder(), 'none') }, error => failed.push(error))!.send(
      { FDSTORE: 1 },
      fd,
    )
    expect(failed).toHaveLength(1)
    expect(openDescriptors()).toBe(before)
  })

  it('has milliseconds where it gives microseconds, and the other way round', async () => {
    const recorder = NotifyRecorder.open(folder())
    const env = vi
      .spyOn(startedAs, 'env', 'get')
      .mockReturnValue({ ...recorder.env, WATCHDOG_USEC: '3000000' })
    onTestFinished(() => env.mockRestore())
    const manager = ServiceManager.find({ warn: () => {} })!
    expect(manager.watchdogMs).toBe(3_000)
    manager.extendTimeout(30_000)
    await until('it is heard', () => recorder.notes.length > 0)
    expect(recorder.notes).toEqual([{ EXTEND_TIMEOUT_USEC: '30000000' }])
  })
})

describe('the name under which a descriptor is kept', () => {
  it('has at most 255 bytes: with a longer one nothing is kept', () => {
    const said: unknown[] = []
    const store = new FdStore({ send: words => void said.push(words) }, 'shop')
    using fd = memoryFile('kept', 'kept')
    const room = 255 - 'fdb.shop.'.length
    store.keep('a'.repeat(room), fd)
    store.keep('a'.repeat(room + 1), fd)
    expect(said).toHaveLength(1)
  })
})

describe('offered sockets that no process took', () => {
  it('close when they are discarded', () => {
    const before = openDescriptors()
    const passed = new PassedSockets([])
    const fd = memoryFile('a', 'a')
    passed.offer([{ name: 'a', fd, about: inspectOne(fd) }])
    passed.discard()
    expect(openDescriptors()).toBe(before)
  })
})

describe('repeated messages to a service manager', () => {
  function watchdogOf(watchdogMs: number | null, leftMs?: () => number) {
    vi.useFakeTimers()
    const heard: string[] = []
    let healthy = true
    const manager = {
      watchdogMs,
      lives: () => void heard.push('lives'),
      extendTimeout: (ms: number) => void heard.push(`${ms}`),
    }
    const watchdog = new Watchdog(manager, () => healthy, leftMs)
    const fall = () => {
      healthy = false
    }
    return { heard, watchdog, fall }
  }

  it('say that the service lives, at least twice in the given time, and only while it does', () => {
    const { heard, watchdog, fall } = watchdogOf(1_000)
    watchdog.start()
    vi.advanceTimersByTime(1_000)
    expect(heard.length).toBeGreaterThan(2)
    fall()
    heard.length = 0
    vi.advanceTimersByTime(2_000)
    expect(heard).toEqual([])
  })

  it('end once another process is watched', () => {
    const { heard, watchdog } = watchdogOf(1_000)
    watchdog.start()
    watchdog.stop()
    heard.length = 0
    vi.advanceTimersByTime(5_000)
    expect(heard).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('say that it takes longer, before the time before is over, until it does not', () => {
    const { heard, watchdog } = watchdogOf(null)
    watchdog.extendTimeout()
    vi.advanceTimersByTime(25_000)
    expect(heard).toEqual(['30000', '30000', '30000'])
    watchdog.endExtension()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('never ask for more time than the limit of the end', () => {
    vi.useFakeTimers()
    const endAt = performance.now() + 34_000
    const { heard, watchdog } = watchdogOf(null, () => endAt - performance.now())
    watchdog.extendTimeout()
    vi.advanceTimersByTime(60_000)
    expect(heard).toEqual(['30000', '24000', '14000', '4000'])
    watchdog.close()
  })
})
