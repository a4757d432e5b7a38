import { execFileSync } from 'node:child_process'
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { PidFile, readPidFile } from '../../../src/os/pid-file.js'
import { compiled } from '../../processes/compiled.js'

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-pid-file-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

describe('a pid file', () => {
  it('names this process, and goes with it', () => {
    const path = join(folder(), 'shop.pid')
    const file = PidFile.at(path, SILENT)!
    file.write()
    expect(readPidFile(path)).toBe(process.pid)
    file.remove()
    expect(readPidFile(path)).toBeNull()
  })

  it('stays if another process has written it, also one of another container with the same pid', () => {
    const path = join(folder(), 'shop.pid')
    const mine = PidFile.at(path, SILENT)!
    mine.write()
    // As another process replaces it: by a file of its own.
    PidFile.at(path, SILENT)!.write()
    mine.remove()
    expect(readPidFile(path)).toBe(process.pid)
  })

  it('stays if another process has written it whose file has got the same inode', () => {
    const path = join(folder(), 'shop.pid')
    const mine = PidFile.at(path, SILENT)!
    mine.write()
    const { ino } = statSync(path)
    // Many file systems give the inode of a file that was replaced to the next but one.
    for (let writes = 0; writes < 4 && (writes === 0 || statSync(path).ino !== ino); writes++)
      PidFile.at(path, SILENT)!.write()
    mine.remove()
    expect(readPidFile(path)).toBe(process.pid)
  })

  it('goes with this process if it was touched', () => {
    const path = join(folder(), 'shop.pid')
    const file = PidFile.at(path, SILENT)!
    file.write()
    utimesSync(path, 1, 1)
    file.remove()
    expect(readPidFile(path)).toBeNull()
  })

  it('stays if another process has written into it', () => {
    const path = join(folder(), 'shop.pid')
    const file = PidFile.at(path, SILENT)!
    file.write()
    writeFileSync(path, '1\n')
    file.remove()
    expect(readPidFile(path)).toBe(1)
  })

  it('comes back if it is removed, until the next process serves, and after each rollback', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const path = join(folder(), 'shop.pid')
    const file = PidFile.at(path, SILENT)!
    for (let serves = 1; serves <= 3; serves++) {
      file.write()
      // A later file cannot have the same inode.
      linkSync(path, `${path}.kept ${serves}`)
      rmSync(path)
      vi.advanceTimersByTime(5_000)
      expect([serves, readPidFile(path)]).toEqual([serves, process.pid])
      file.leave()
      rmSync(path)
      vi.advanceTimersByTime(60_000)
      expect([readPidFile(path), vi.getTimerCount()]).toEqual([null, 0])
    }
    for (let again = 0; again < 2; again++) file.write()
    file.remove()
    expect([readPidFile(path), vi.getTimerCount()]).toEqual([null, 0])
  })

  it('stays as it is if this process may not see it any more', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const home = folder()
    mkdirSync(join(home, 'run'))
    const file = PidFile.at(join(home, 'run', 'shop.pid'), SILENT)!
    file.write()
    // A path through a file cannot be looked up, also by root.
    rmSync(join(home, 'run'), { recursive: true })
    writeFileSync(join(home, 'run'), '')
    vi.advanceTimersByTime(5_000)
    expect(readFileSync(join(home, 'run'), 'utf8')).toBe('')
    file.leave()
  })

  it('causes one log line if it cannot be written again', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const home = folder()
    const path = join(home, 'run', 'shop.pid')
    mkdirSync(join(home, 'run'))
    let errors = 0
    const file = PidFile.at(path, { ...SILENT, error: () => errors++ })!
    file.write()
    rmSync(join(home, 'run'), { recursive: true })
    vi.advanceTimersByTime(60_000)
    expect(errors).toBe(1)
    file.leave()
  })

  it('names this process once its folder exists again', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const home = folder()
    const path = join(home, 'run', 'shop.pid')
    const file = PidFile.at(path, SILENT)!
    file.write()
    mkdirSync(join(home, 'run'))
    vi.advanceTimersByTime(5_000)
    expect(readPidFile(path)).toBe(process.pid)
    file.remove()
    expect(readdirSync(join(home, 'run'))).toEqual([])
  })

  it('causes the same log lines each time that its folder is away', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const run = join(folder(), 'run')
    const told: string[] = []
    const log = (_facts: object, message: string) => void told.push(message)
    const file = PidFile.at(join(run, 'shop.pid'), { ...SILENT, info: log, warn: log, error: log })!
    onTestFinished(() => file.leave())
    const stories = [1, 2, 3].map(() => {
      mkdirSync(run, { recursive: true })
      file.write()
      told.length = 0
      rmSync(run, { recursive: true })
      vi.advanceTimersByTime(20_000)
      mkdirSync(run)
      vi.advanceTimersByTime(20_000)
      return [...told]
    })
    expect(stories[0]).toHaveLength(3)
    expect(stories.slice(1)).toEqual([stories[0], stories[0]])
  })

  it('leaves no file beside it on a disk without room', () => {
    const there = folder()
    const module = compiled('os/pid-file')
    const logger = '{ error: ({ err }) => console.log(err.code) }'
    const write = `import(process.argv[1]).then(m => m.PidFile.at(process.argv[2], ${logger}).write())`
    // No file can have a byte, as on a full disk: EFBIG.
    const limit = `trap '' XFSZ && ulimit -f 0 && exec "$@"`
    const command = [process.execPath, '-e', write, module, join(there, 'shop.pid')]
    const said = execFileSync('sh', ['-c', limit, 'sh', ...command], { encoding: 'utf8' })
    expect(said.trim()).toBe('EFBIG')
    expect(readdirSync(there)).toEqual([])
  })

  it('goes through no link that another user has put where it is made', () => {
    const there = folder()
    const path = join(there, 'shop.pid')
    const precious = join(there, 'precious')
    writeFileSync(precious, 'kept')
    symlinkSync(precious, `${path}.${process.pid}~`)
    PidFile.at(path, SILENT)!.write()
    expect(readFileSync(precious, 'utf8')).toBe('kept')
    expect(readPidFile(path)).toBe(process.pid)
    expect(readdirSync(there).sort()).toEqual(['precious', 'shop.pid'])
  })

  it('causes a log line, no more, if it cannot be written', () => {
    const told: string[] = []
    const path = join(folder(), 'missing', 'shop.pid')
    const logger = { ...SILENT, error: (_facts: object, message: string) => told.push(message) }
    const file = PidFile.at(path, logger)!
    file.write()
    file.remove()
    expect(told).toEqual([
      'the pid file could not be changed and keeps its content (ENOENT): create its folder',
    ])
  })
})
