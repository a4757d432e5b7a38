import { describe, expect, it } from 'vitest'
import { FdbError, FdbTypeError } from '../../../src/errors.js'
import { remoteError } from '../../../src/wire/link.js'

describe('FdbError.from', () => {
  it('gives the same error when it is one of ours, also of another copy of the package', () => {
    const own = new FdbError('ERR_FDB_BUSY', 'try again', { retryable: true })
    const kind = new FdbTypeError('ERR_FDB_STATE_KEY', 'give a string')
    const foreign = Object.assign(new Error('of another copy'), { [Symbol.for('fd-broker.error')]: true })
    for (const error of [own, kind, foreign]) expect(FdbError.from(error)).toBe(error)
  })

  it('gives anything else a code, keeps its words, and has it as the cause', () => {
    const thrown = new RangeError('of no use')
    expect(FdbError.from(thrown)).toMatchObject({
      code: 'ERR_FDB_INTERNAL',
      message: 'of no use',
      cause: thrown,
    })
    for (const odd of ['text', 7, null, undefined, { code: 'ERR_FDB_BUSY' }]) {
      const error = FdbError.from(odd, 'ERR_FDB_HOOK')
      expect(error).toBeInstanceOf(FdbError)
      expect(error).toMatchObject({ code: 'ERR_FDB_HOOK', message: String(odd), retryable: false })
    }
  })
})

describe('the code of an error', () => {
  it('must exist: another does not compile', () => {
    // @ts-expect-error misspelt
    expect(new FdbError('ERR_FDB_BUSSY', '').code).not.toBe('ERR_FDB_BUSY')
    // @ts-expect-error misspelt
    expect(new FdbTypeError('ERR_FDB_STATE_KEYS', '').code === 'ERR_FDB_STATE_KEY').toBe(false)
    // @ts-expect-error never equal
    expect(new FdbError('ERR_FDB_BUSY', '').code === 'ERR_FDB_HTTP1_FIELD_NAMES').toBe(false)
  })

  it('stays as another process tells it, also one that only a newer release has', () => {
    const otherwise = { code: 'ERR_FDB_REJECTED', message: 'refused' } as const
    for (const code of ['ERR_FDB_BUSY', 'ERR_FDB_OF_A_LATER_YEAR'])
      expect(remoteError({ code, message: 'why' }, otherwise)).toMatchObject({ code, message: 'why' })
    for (const code of [undefined, null, '', 'EPERM', '<b>'])
      expect(remoteError({ code }, otherwise)).toMatchObject(otherwise)
  })
})
