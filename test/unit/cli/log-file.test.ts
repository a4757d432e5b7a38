import { spawnSync } from 'node:child_process'
import fs, { existsSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { LogFile } from '../../../src/cli/log.js'
import { until } from '../../processes/until.js'

const LINE = `${'a'.repeat(99)}\n`

let folder: string
let path: string
const open: LogFile[] = []
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-log-'))
  path = join(folder, 'log')
})
afterEach(() => {
  vi.restoreAllMocks()
  for (const file of open.splice(0)) file.end()
  rmSync(folder, { recursive: true, force: true })
})

/** A disk with room for so many bytes: a write that finds none fails, as does each to the file of the number `full`. */
function disk(room: number): { room: number; writes: number; full?: number } {
  const it: ReturnType<typeof disk> = { room, writes: 0 }
  const { writeSync } = fs
  const take = (fd: number, text: string | Buffer): number => {
    it.writes++
    const bytes = Buffer.from(text as string)
    const none = it.room === 0 || fs.fstatSync(fd).ino === it.full
    if (none && bytes.length > 0) throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' })
    const taken = bytes.subarray(0, it.room)
    it.room -= taken.length
    return writeSync(fd, taken)
  }
  vi.spyOn(fs, 'writeSync').mockImplementation(take as typeof fs.writeSync)
  vi.spyOn(fs, 'write').mockImplementation(((fd: number, text: string | Buffer, ...rest: unknown[]) => {
    const done = rest.at(-1) as (error: unknown, taken?: number) => void
    setImmediate(() => {
      try {
        done(null, take(fd, text))
      } catch (error) {
        done(error)
      }
    })
  }) as typeof fs.write)
  return it
}

/** The events of the file, in order; how many lines are missing is written in the log. */
async function opened(sync: boolean, most?: number): Promise<{ file: LogFile; told: string[] }> {
  const told: string[] = []
  const file = await LogFile.open(
    { option: 'log-file', path, fd: 1, sync, ...(most !== undefined && { most }) },
    {
      failed: error => told.push(`failed: ${error.message}`),
      missing: lines => file.write(`missing: ${lines}\n`),
      reopenFailed: error => told.push(`kept: ${(error as NodeJS.ErrnoException).code}`),
    },
  )
  open.push(file)
  return { file, told }
}

/** A descriptor of this process leads to the log. */
function isOpen(): boolean {
  return fs.readdirSync('/proc/self/fd').some(fd => {
    const link = `/proc/self/fd/${fd}`
    return existsSync(link) && fs.readlinkSync(link) === path
  })
}

const written = () => (existsSync(path) ? readFileSync(path, 'utf8') : '')

describe.each([
  ['in the turn of a line', true],
  ['by a thread', false],
])('a log that is written %s', (_, sync) => {
  it('drops lines while there is no room, and says in one line how many, when there is; it fails once', async () => {
    const there = disk(150)
    const { file, told } = await opened(sync)
    file.write(LINE)
    file.write(LINE)
    await until('it has failed', () => told.length > 0)
    const { writes } = there
    for (let i = 0; i < 1_000; i++) file.write(LINE + LINE)
    expect(there.writes).toBe(writes)
    await until('it has been tried again', () => there.writes > writes)
    file.write(LINE)
    there.room = Number.POSITIVE_INFINITY
    await until('it goes on', () => written().includes('missing'))
    file.write('after\n')
    await until('it is written', () => written().endsWith('after\n'))
    expect(written()).toBe(`${LINE}${LINE}missing: 2001\nafter\n`)
    expect(told).toEqual(['failed: ENOSPC: no space left'])
  })

  it('goes on in another file, where there is room, and says there what is missing', async () => {
    const there = disk(50)
    const { file, told } = await opened(sync)
    file.write(LINE)
    await until('it has failed', () => told.length > 0)
    file.write(LINE)
    renameSync(path, `${path}.1`)
    there.full = fs.statSync(`${path}.1`).ino
    there.room = Number.POSITIVE_INFINITY
    file.reopen()
    await until('it goes on', () => written().includes('missing'))
    file.write('after\n')
    await until('it is written', () => written().endsWith('after\n'))
    expect(written()).toBe('missing: 2\nafter\n')
  })

  it('stays in the file that it has when that cannot be opened anew', async () => {
    const { file, told } = await opened(sync)
    const there = join(folder, 'there')
    file.write('one\n')
    await until('it is written', () => written() === 'one\n')
    fs.mkdirSync(there)
    renameSync(path, join(there, 'log'))
    fs.mkdirSync(path)
    file.reopen()
    await until('it is told', () => told.length > 0)
    file.write('two\n')
    await until('it is written', () => readFileSync(join(there, 'log'), 'utf8') === 'one\ntwo\n')
    expect(told).toEqual(['kept: EISDIR'])
    fs.rmdirSync(path)
    file.reopen()
    await until('it is there', () => existsSync(path))
    await until('it is written to', () => {
      file.write('three\n')
      return written().startsWith('three\n')
    })
  })
})

describe('a log whose reader is slow', () => {
  it('keeps all lines as long as it is written, and waits 1 s at the end', async () => {
    const now = performance.now.bind(performance)
    let later = 0
    vi.spyOn(performance, 'now').mockImplementation(() => now() + later)
    let tries = 0
    vi.spyOn(fs, 'write').mockImplementation(((...given: unknown[]) => {
      tries++
      const done = given.at(-1) as (error: unknown) => void
      setImmediate(() => done(Object.assign(new Error('EAGAIN: try again'), { code: 'EAGAIN' })))
    }) as typeof fs.write)
    const { file, told } = await opened(false)
    file.write(LINE)
    later = 60_000
    const tried = async (more: number) => {
      const before = tries
      await until('it is tried again', () => tries >= before + more)
    }
    await tried(2)
    expect(told).toEqual([])
    file.end()
    later += 900
    await tried(0)
    later += 200
    await until('it is given up', () => told.length > 0, 2_000)
    expect(told).toEqual(['failed: EAGAIN: try again'])
  })

  it('closes when all is written, with how many lines are missing', async () => {
    const there = disk(50)
    const { file, told } = await opened(false)
    file.write(LINE)
    await until('it has failed', () => told.length > 0)
    file.write(LINE)
    file.end()
    there.room = Number.POSITIVE_INFINITY
    await until('it is closed', () => !isOpen())
    expect(written()).toBe(`${LINE}missing: 1\n`)
    file.write(LINE)
    file.end()
    expect(written()).toBe(`${LINE}missing: 1\n`)
  })

  it('keeps so much for it, and says how many lines more there were', async () => {
    const there = disk(Number.POSITIVE_INFINITY)
    const { file, told } = await opened(false, 1_000)
    for (let i = 0; i < 25; i++) file.write(LINE)
    await until('they are written', () => written().endsWith('missing: 15\n'))
    expect(written()).toBe(`${LINE.repeat(10)}missing: 15\n`)
    expect(told).toEqual([])
    expect(there.writes).toBeGreaterThan(0)
  })
})

describe('a log file that is a FIFO', () => {
  const target = () => ({ option: 'log-file', path, fd: 2, sync: true }) as const
  const events = { failed: () => {}, missing: () => {}, reopenFailed: () => {} }

  it('fails at once if no process reads from it, instead of waiting for one', async () => {
    spawnSync('mkfifo', [path])
    await expect(LogFile.open(target(), events)).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringContaining('it is a FIFO, and no process reads from it'),
    })
  })

  it('gets the lines if a process reads from it', async () => {
    spawnSync('mkfifo', [path])
    const reader = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const file = await LogFile.open(target(), events)
    open.push(file)
    file.write(LINE)
    const into = Buffer.alloc(LINE.length)
    fs.readSync(reader, into)
    fs.closeSync(reader)
    expect(into.toString()).toBe(LINE)
  })
})
