import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidArgumentError } from 'commander'
import { describe, expect, it } from 'vitest'
import { durationMs } from '../../src/base/duration.js'
import { exitCodeOf } from '../../src/cli/exit-code-of.js'
import { humanLine } from '../../src/cli/human-log.js'
import { formatDuration, workerCount } from '../../src/cli/options.js'
import { NewLines } from '../../src/cli/start.js'
import { serviceOf, servingKey } from '../../src/cli/status-answer.js'
import { FdbError } from '../../src/errors.js'
import type { ServiceStatus, StatusAnswer } from '../../src/operator.js'
import { remoteError } from '../../src/wire/link.js'
import { MOST_WORKERS } from '../../src/workers/options.js'

describe('the exit code of a command', () => {
  it('is 2 where the command line is wrong, and 1 where another process says that of its own options', () => {
    expect(exitCodeOf(new FdbError('ERR_FDB_OPTION', 'wrong'))).toBe(2)
    const told = remoteError(
      { code: 'ERR_FDB_OPTION', message: 'wrong' },
      { code: 'ERR_FDB_OPTION', message: '' },
    )
    expect(exitCodeOf(told)).toBe(1)
  })

  it('is 2 for an address that is none, and 1 for one whose path is in the way', () => {
    expect(exitCodeOf(new FdbError('ERR_FDB_SPEC', 'no address'))).toBe(2)
    expect(exitCodeOf(new FdbError('ERR_FDB_SPEC', 'no socket', { details: { path: '/a' } }))).toBe(1)
  })
})

describe('a duration', () => {
  it('is one to as many milliseconds as a timer takes', () => {
    expect(['0ms', '1ms', '24h', '600h'].map(text => durationMs(text, 1))).toEqual([
      null,
      1,
      86_400_000,
      null,
    ])
  })

  it('is told in its two largest units', () => {
    expect([59.99, 3_600, 90_061, 100_000].map(formatDuration)).toEqual(['59.9s', '1h 0m', '1d 1h', '1d 3h'])
  })
})

describe('a number of workers', () => {
  it('is one to the most that there may be, or auto', () => {
    expect([workerCount('1'), workerCount(`${MOST_WORKERS}`), workerCount('auto')]).toEqual([
      1,
      MOST_WORKERS,
      'auto',
    ])
    for (const text of ['0', `${MOST_WORKERS + 1}`, '-1', 'many', ''])
      expect(() => workerCount(text), text).toThrow(InvalidArgumentError)
  })
})

describe('who serves, as status says it', () => {
  const answer = (services: ServiceStatus[]): StatusAnswer => ({ role: 'daemon', services })
  const shop = { service: 'shop', pid: 7, generation: 3 }

  it('is told from another of the same pid by its generation', () => {
    expect(servingKey(answer([shop]), 'shop')).not.toBe(
      servingKey(answer([{ ...shop, generation: 4 }]), 'shop'),
    )
    expect(servingKey(answer([{ service: 'shop', generation: 3 }]), 'shop')).toBeNull()
  })

  it('is the only service where none is named, and never another than that named', () => {
    expect(serviceOf(answer([shop]), '')).toMatchObject(shop)
    expect(serviceOf(answer([shop]), 'other')).toBeUndefined()
  })
})

describe('a line of a log', () => {
  it.each(['null', '5', '"text"'])('is unchanged on a terminal if it is JSON but no object: %s', line => {
    expect(humanLine(line)).toBe(line)
  })

  it('is read once, when it is complete, and from the start of a file that was rotated', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-lines-'))
    const log = join(folder, 'shop.log')
    const lines = new NewLines(log)
    try {
      expect(await lines.read()).toBe('')
      writeFileSync(log, 'one\ntw')
      expect(await lines.read()).toBe('one\n')
      appendFileSync(log, 'o\n')
      expect([await lines.read(), await lines.read()]).toEqual(['two\n', ''])
      writeFileSync(log, 'new\n')
      expect(await lines.read()).toBe('new\n')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
