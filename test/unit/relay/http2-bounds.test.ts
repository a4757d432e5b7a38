import { describe, expect, it } from 'vitest'
import { boundOf, RateBounds } from '../../../src/relay/index.js'

describe('the bounds of an HTTP/2 connection', () => {
  it('allow a burst, and more by their rate', () => {
    const bounds = new RateBounds()
    for (let i = 0; i < 20; i++) expect(bounds.allows('settings', 1, 1_000)).toBe(true)
    expect(bounds.allows('settings', 1, 1_000)).toBe(false)
    expect(bounds.allows('pings', 100, 1_000)).toBe(true)
    expect(new RateBounds().allows('refused', 201, 0)).toBe(false)
  })

  it('forget by their rate, up to the burst', () => {
    const bounds = new RateBounds()
    expect(bounds.allows('settings', 20, 0)).toBe(true)
    expect(bounds.allows('settings', 2, 2_000)).toBe(true)
    expect(bounds.allows('settings', 21, 1_000_000)).toBe(false)
  })

  it('differ from other errors of a connection', () => {
    expect(boundOf(Object.assign(new Error(), { code: 'ERR_HTTP2_ERROR', errno: -501 }))).toBe(null)
    expect(boundOf(new Error('ECONNRESET'))).toBe(null)
  })
})
