import { describe, expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { Departure } from '../../src/member/departure.js'

const DRAIN_MS = 1_000
const failed = new FdbError('ERR_FDB_DEADLINE', 'too late')

/** How it ends, and what the application is told. */
async function ended(departure: Departure): Promise<string[]> {
  const told: string[] = []
  departure.end(failed)
  departure.tell(why => told.push(why))
  return [await departure.retired, ...told]
}

describe('the departure of a process', () => {
  it('is retired until it serves again, also while it is closed', () => {
    const departure = new Departure(DRAIN_MS)
    departure.retire()
    expect([departure.isRetired, departure.closing]).toEqual([true, false])
    departure.serve()
    expect([departure.isRetired, departure.closing]).toEqual([false, false])
    departure.retire()
    departure.close()
    expect([departure.isRetired, departure.closing]).toEqual([true, true])
    departure.serve()
    expect([departure.isRetired, departure.closing]).toEqual([false, true])
  })

  it('is not retired by what comes after its close', () => {
    const departure = new Departure(DRAIN_MS)
    departure.close()
    departure.retire()
    expect([departure.isRetired, departure.closing, departure.over]).toEqual([false, true, false])
    departure.end(failed)
    expect([departure.isRetired, departure.closing, departure.over]).toEqual([false, false, true])
  })

  it('says why: lost, unless another serves by the word of whoever decides', async () => {
    const words = [
      [],
      ['retire'],
      ['retire', 'resume'],
      ['released', 'resume'],
      ['released', 'retire', 'resume'],
    ] as const
    const whys = words.map(async said => {
      const departure = new Departure(DRAIN_MS)
      for (const word of said) departure.hear(word)
      departure.leave(false)
      return await ended(departure)
    })
    const lost = ['lost', 'lost']
    const replaced = ['replaced', 'replaced']
    expect(await Promise.all(whys)).toEqual([lost, replaced, lost, replaced, replaced])
    const decided = new Departure(DRAIN_MS)
    decided.leave(true)
    expect(await ended(decided)).toEqual(replaced)
  })

  it('says that the application wanted it', async () => {
    const departure = new Departure(DRAIN_MS)
    departure.close()
    departure.closedBy('closed')
    expect(await ended(departure)).toEqual(['closed', 'closed'])
  })

  it('keeps the first reason, until it is fenced or serves', () => {
    const departure = new Departure(DRAIN_MS)
    const fenced = new FdbError('ERR_FDB_FENCED', 'another writes')
    departure.because(failed)
    departure.because(fenced)
    expect(departure.reason).toBe(failed)
    departure.becauseFenced(fenced)
    expect(departure.reason).toBe(fenced)
    departure.serve()
    expect(departure.reason).toBeNull()
  })
})
