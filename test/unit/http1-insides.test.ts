import { describe, expect, it } from 'vitest'
import { parseAuthority, readAuthority } from '../../src/http1/authority.js'

const read = (text: string) => readAuthority(Buffer.from(text), 0, text.length)

describe('hosts that were seen before', () => {
  it('are told from others of the same length, also where both have the same place in the memory', () => {
    // Of 5,000 names every place of 512 has several: one that was taken for another would be wrong.
    for (let round = 0; round < 2; round++)
      for (let n = 0; n < 5_000; n++) {
        const text = `h${String(n).padStart(5, '0')}.example`
        expect(read(text)?.host).toBe(text)
      }
  })
})

describe('a port', () => {
  it('is at most 65535', () => {
    expect(parseAuthority('a:65535')).toEqual({ host: 'a', port: 65_535 })
    expect(parseAuthority('a:65536')).toBeUndefined()
    expect(parseAuthority('a:99999')).toBeUndefined()
  })
})
