import { closeSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, it, onTestFinished } from 'vitest'
import { type Logger, SILENT, wrappedLogger } from '../../../src/base/logger.js'
import { openLog } from '../../../src/cli/log.js'

const FACTS = { pid: 1, name: 'web', hostname: 'other', uid: 0 }

/** Keys as they are written, also those that JSON.parse() would lose. */
function keysOf(line: string): string[] {
  return [...line.matchAll(/[{,]"(\w+)":/g)].map(([, key]) => key!)
}

function targetOf(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return null
  }
}

it('a line of the log of a command has no key twice, and names its own process where it tells of another', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-log-'))
  const file = join(folder, 'log')
  onTestFinished(() => {
    // The log of a command stays open as long as its process.
    closeSync(Number(readdirSync('/proc/self/fd').find(fd => targetOf(fd) === file)))
    rmSync(folder, { recursive: true, force: true })
  })
  const { logger } = await openLog({ level: 'info', file })
  logger.info(FACTS, 'told of another')
  logger.info({ uid: 0 }, 'told')
  const [first = '', second = ''] = readFileSync(file, 'utf8').split('\n')
  for (const line of [first, second]) expect(keysOf(line)).toEqual([...new Set(keysOf(line))])
  expect(JSON.parse(first)).toMatchObject({ ...FACTS, ownPid: process.pid })
  expect(JSON.parse(second)).toMatchObject({ name: 'fd-broker', pid: process.pid, uid: 0 })
  expect(keysOf(second)).not.toContain('ownPid')
})

it('facts of the library that the application’s own logger writes into each line have another name', () => {
  const lines: string[] = []
  const logger = wrappedLogger(pino({ name: 'shop' }, { write: line => void lines.push(line) }) as Logger)
  logger.warn(FACTS, 'told')
  const [line = ''] = lines
  expect(keysOf(line)).toEqual([...new Set(keysOf(line))])
  expect(JSON.parse(line)).toMatchObject({
    pid: process.pid,
    otherPid: 1,
    name: 'shop',
    otherName: 'web',
    uid: 0,
  })
})

it('a logger that writes nothing by itself is taken as it is', () => {
  expect(wrappedLogger(SILENT)).toBe(SILENT)
})
