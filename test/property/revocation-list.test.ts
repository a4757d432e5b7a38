import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { revocationLists, subjectKey } from '../../src/proxy/tls/revocation-list.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { type Certificate, issue, revoke } from '../processes/certificate.js'

let folder: string
let ca: Certificate
let list: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-lists-'))
  ca = issue(folder, 'ca')
  // The begin is before 2050, the end after it: two encodings.
  list = revoke(ca, folder, 'a.crl', [ca], { from: '19990203040506Z', until: '20510203040506Z' })
})
afterAll(() => rmSync(folder, { recursive: true }))

const pemOf = (bytes: Uint8Array) =>
  `-----BEGIN X509 CRL-----\n${Buffer.from(bytes).toString('base64')}\n-----END X509 CRL-----\n`
const bytesOf = (pem: string) => Buffer.from(pem.replaceAll(/-----.*-----/g, ''), 'base64')

describe('a list of revoked certificates', () => {
  it('tells its CA and its times, and differs where its certificates do', () => {
    const subject = subjectKey(new X509Certificate(readFileSync(ca.cert)).raw)
    const [found, ...more] = revocationLists(readFileSync(list, 'latin1'))
    expect(more).toEqual([])
    expect(found).toMatchObject({
      issuer: subject,
      from: Date.UTC(1999, 1, 3, 4, 5, 6),
      until: Date.UTC(2051, 1, 3, 4, 5, 6),
    })
    const others = [revoke(ca, folder, 'b.crl', [ca]), revoke(ca, folder, 'c.crl', [])]
    const [same, none] = revocationLists(others.map(file => readFileSync(file, 'latin1')).join('text\n'))
    expect([same!.revoked === found!.revoked, none!.revoked === found!.revoked]).toEqual([true, false])
  })

  it('has the name of its CA, whatever kind of string and letters encode it', () => {
    const { raw } = new X509Certificate(readFileSync(ca.cert))
    const other = Buffer.from(raw)
    // UTF8String of two bytes, as a PrintableString in capitals.
    for (let at = raw.indexOf('\x0c\x02ca'); at >= 0; at = raw.indexOf('\x0c\x02ca', at + 1))
      other.write('\x13\x02CA', at, 'latin1')
    expect(other.equals(raw)).toBe(false)
    expect(subjectKey(other)).toBe(subjectKey(raw))
  })

  it('throws nothing but a RangeError, whatever bytes it has', () => {
    const whole = bytesOf(readFileSync(list, 'latin1'))
    const refusal = (bytes: Uint8Array) => {
      try {
        revocationLists(pemOf(bytes))
        return null
      } catch (error) {
        return error
      }
    }
    for (let cut = 0; cut < whole.length; cut++)
      expect(refusal(whole.subarray(0, cut)), `${cut} bytes`).toBeInstanceOf(RangeError)
    const change = fc.tuple(fc.nat({ max: whole.length - 1 }), fc.integer({ min: 0, max: 255 }))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), changes => {
        const bytes = Buffer.from(whole)
        for (const [at, byte] of changes) bytes[at] = byte
        const error = refusal(bytes)
        expect(error === null || error instanceof RangeError).toBe(true)
      }),
      { numRuns: perLane(500, 5_000) },
    )
  })
})
