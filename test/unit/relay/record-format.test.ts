import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { decodeRecord, encodeRecord } from '../../../src/relay/connection-record.js'

/** As written before an exchange was one object of facts: what an older process gives, and what one must be given that takes connections back. */
const RECORDS: { name: string; fds: number; record: string }[] = JSON.parse(
  readFileSync(new URL('../../fixtures/relayed-records.json', import.meta.url), 'utf8'),
)

describe('the record of a relayed connection that an older process wrote', () => {
  it.each(RECORDS)('$name is read, and written the same to the byte', ({ fds, record }) => {
    const state = decodeRecord(Buffer.from(record, 'base64'), fds)
    expect(Buffer.from(encodeRecord(state)).toString('base64')).toBe(record)
  })

  it('without the connection to the server is refused in the singular', () => {
    const { record } = RECORDS.find(({ name }) => name === 'answering by length')!
    expect(() => decodeRecord(Buffer.from(record, 'base64'), 1)).toThrow(
      'it has 1 descriptor in phase answering.',
    )
  })
})
