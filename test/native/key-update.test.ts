import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { suiteOf } from '../../src/tls13/key-schedule.js'
import { Protection } from '../../src/tls13/protection.js'
import { HANDSHAKE, SUITES, type SuiteName } from '../connections-support/tls-peer.js'

const KEY_UPDATE = Buffer.of(24, 0, 0, 1, 0)
const RECORD_BYTES = 27
const NUMBERS = [0, 1, 255, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, 2 ** 53 - 1]

describe('a KeyUpdate that the addon seals', () => {
  it.each(Object.keys(SUITES) as SuiteName[])(
    'equals that of node:crypto, as the next secret does (%s)',
    name => {
      const suite = suiteOf(name)!
      for (const number of NUMBERS) {
        const secret = randomBytes(SUITES[name].secret)
        const ours = new Protection(suite, secret, number)
        const [record] = ours.seal(HANDSHAKE, KEY_UPDATE)
        ours.update()
        const sealed = Buffer.alloc(RECORD_BYTES)
        expect(native.sealKeyUpdate(suite.number, secret, number, sealed)).toBe(true)
        expect(sealed).toEqual(record)
        expect(secret).toEqual(ours.takeSecret())
      }
    },
  )

  it('needs a secret and a record of the lengths of its suite, and leaves both as they are otherwise', () => {
    const record = Buffer.alloc(RECORD_BYTES)
    for (const [suite, bytes] of [
      [0, 31],
      [1, 32],
      [2, 48],
    ] as const) {
      const secret = Buffer.alloc(bytes, 7)
      expect(() => native.sealKeyUpdate(suite, secret, 0, record)).toThrow(RangeError)
      expect(secret).toEqual(Buffer.alloc(bytes, 7))
    }
    expect(() => native.sealKeyUpdate(0, Buffer.alloc(32), 0, Buffer.alloc(26))).toThrow(RangeError)
    expect(() => native.sealKeyUpdate(3, Buffer.alloc(32), 0, record)).toThrow(RangeError)
    expect(() => native.sealKeyUpdate(0, Buffer.alloc(32), 2 ** 53, record)).toThrow(RangeError)
    expect(record).toEqual(Buffer.alloc(RECORD_BYTES))
  })
})
