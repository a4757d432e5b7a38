import { describe, expect, it } from 'vitest'
import { withDeadline } from '../../../src/wire/pending.js'

const never = new Promise<never>(() => {})

describe('withDeadline', () => {
  it('gives the value that comes in time, and the failure too', async () => {
    expect(await withDeadline(Promise.resolve(7), 1000, 'seven')).toBe(7)
    await expect(withDeadline(Promise.reject(new Error('own')), 1000, 'x')).rejects.toThrow('own')
  })

  it('names what was waited for and how long', async () => {
    await expect(withDeadline(never, 5, 'the Welcome')).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      message: expect.stringContaining('the Welcome did not happen within 5 ms'),
      details: { ms: 5 },
    })
  })

  it('a rejection after the deadline is not unhandled', async () => {
    let fail!: (error: Error) => void
    const late = new Promise<never>((_, reject) => {
      fail = reject
    })
    await expect(withDeadline(late, 1, 'x')).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    fail(new Error('late'))
    await new Promise(resolve => setImmediate(resolve))
  })
})
