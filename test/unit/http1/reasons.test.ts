import { STATUS_CODES } from 'node:http'
import { describe, expect, it } from 'vitest'
import { reasonOf } from '../../../src/http1/index.js'

describe('a status line', () => {
  it('calls each status as Node does', () => {
    const ours = Object.keys(STATUS_CODES).map(status => [status, reasonOf(Number(status))])
    expect(Object.fromEntries(ours)).toEqual(STATUS_CODES)
  })

  it('leaves out the name of one that has none', () => {
    expect(reasonOf(299)).toBe('')
  })
})
