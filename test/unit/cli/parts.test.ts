import { InvalidArgumentError } from 'commander'
import { describe, expect, it } from 'vitest'
import { exitCodeOf } from '../../../src/cli/exit-code-of.js'
import { workerCount } from '../../../src/cli/options.js'
import { formatDuration } from '../../../src/cli/output.js'
import { serviceOf, servingKey } from '../../../src/cli/status-answer.js'
import { FdbError } from '../../../src/errors.js'
import type { ServiceStatus, StatusAnswer } from '../../../src/operator.js'
import { remoteError } from '../../../src/wire/link.js'
import { MOST_WORKERS } from '../../../src/workers/options.js'

describe('the exit code of a command', () => {
  it('means 2 where the command line is wrong, and 1 where another process says that of its own options', () => {
    expect(exitCodeOf(new FdbError('ERR_FDB_OPTION', 'wrong'))).toBe(2)
    const told = remoteError(
      { code: 'ERR_FDB_OPTION', message: 'wrong' },
      { code: 'ERR_FDB_OPTION', message: '' },
    )
    expect(exitCodeOf(told)).toBe(1)
  })

  it('means 2 for an invalid address, and 1 for one whose path is in the way', () => {
    expect(exitCodeOf(new FdbError('ERR_FDB_SPEC', 'no address'))).toBe(2)
    expect(exitCodeOf(new FdbError('ERR_FDB_SPEC', 'no socket', { details: { path: '/a' } }))).toBe(1)
  })
})

describe('a duration', () => {
  it('shows its two largest units', () => {
    expect([59.99, 3_600, 90_061, 100_000].map(formatDuration)).toEqual(['59.9s', '1h 0m', '1d 1h', '1d 3h'])
  })
})

describe('a number of workers', () => {
  it('may be one to the limit, or auto', () => {
    expect([workerCount('1'), workerCount(`${MOST_WORKERS}`), workerCount('auto')]).toEqual([
      1,
      MOST_WORKERS,
      'auto',
    ])
    for (const text of ['0', `${MOST_WORKERS + 1}`, '-1', 'many', ''])
      expect(() => workerCount(text), text).toThrow(InvalidArgumentError)
  })
})

describe('the serving process in a status', () => {
  const answer = (services: ServiceStatus[]): StatusAnswer => ({ role: 'daemon', services })
  const shop = { service: 'shop', pid: 7, generation: 3 }

  it('differs from another of the same pid by its generation', () => {
    expect(servingKey(shop)).not.toBe(servingKey({ ...shop, generation: 4 }))
    expect(servingKey({ service: 'shop', generation: 3 })).toBeNull()
  })

  it('runs the only service where none is named, and never another than the named one', () => {
    expect(serviceOf(answer([shop]), '')).toMatchObject(shop)
    expect(serviceOf(answer([shop]), 'other')).toBeUndefined()
  })
})
