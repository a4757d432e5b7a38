import { closeSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openLog } from '../../../src/cli/log.js'
import { FdbError } from '../../../src/errors.js'

/** The line without its time. */
const timeless = (line: string) => line.replace(/,"time":\d{13},/, ',')

let folder: string
let log: Awaited<ReturnType<typeof openLog>>
const file = () => join(folder, 'log')
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-log-'))
  log = await openLog({ level: 'info', file: file() })
})
afterAll(() => {
  // The log of a command stays open as long as its process.
  const isLog = (fd: string) =>
    statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false })?.ino === statSync(file()).ino
  closeSync(Number(readdirSync('/proc/self/fd').find(isLog)))
  rmSync(folder, { recursive: true, force: true })
})

/** Returns the line that the log of a command writes. */
function lineOf(facts: object, message = 'told'): string {
  truncateSync(file())
  log.logger.warn(facts, message)
  return readFileSync(file(), 'utf8')
}

function linesOf(facts: object): { ours: string; ofPino: string } {
  const message = 'a "message"\nof two lines'
  let ofPino = ''
  const base = { pid: process.pid, hostname: hostname(), name: 'fd-broker' }
  pino({ base }, { write: (line: string) => void (ofPino = line) }).warn(facts, message)
  return { ours: lineOf(facts, message), ofPino }
}

class OwnError extends TypeError {
  override readonly cause = new Error('the cause', { cause: new RangeError('its cause') })
  readonly inner = new Error('another')
  readonly count = 3
}

describe('a line of the log is the line that pino writes', () => {
  it.each<[string, object]>([
    ['facts of each kind', { a: 1, b: true, c: 'text', d: null, e: [1, { f: 2 }], g: new Date(0) }],
    ['facts that JSON lacks', { a: undefined, b: () => 1, c: Number.NaN, d: 5n, e: 'after' }],
    ['keys and text with quotes and line ends', { 'a"b': 'c\\d\n', '\u2028': '\u0007\u00e9' }],
    ['an error', { err: new Error('failed') }],
    ['an error of the library', { err: new FdbError('ERR_FDB_OPTION', 'no', { details: { n: 1 } }) }],
    ['an error with causes and own facts', { err: new OwnError('failed') }],
    ['several errors in one', { err: new AggregateError([new Error('one'), 'two'], 'failed') }],
    ['an error that is not one', { err: 'text' }],
    ['an error of another name', { error: new Error('not written') }],
  ])('with %s', (_, facts) => {
    const { ours, ofPino } = linesOf(facts)
    expect(timeless(ours)).toBe(timeless(ofPino))
  })
})

it('a fact that contains itself is written as text', () => {
  const ring: Record<string, unknown> = {}
  ring.ring = ring
  expect(JSON.parse(lineOf({ ring, after: 1 }))).toMatchObject({
    ring: expect.stringContaining('Circular'),
    after: 1,
    msg: 'told',
  })
})

it('an error that is its own cause is written once', () => {
  const err = new Error('failed')
  err.cause = err
  expect(JSON.parse(lineOf({ err }))).toMatchObject({ err: { message: 'failed' } })
})
