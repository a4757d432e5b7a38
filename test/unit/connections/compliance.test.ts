import { describe, expect, it } from 'vitest'
import {
  type Departure,
  MAX_CONNECTION_FDS,
  MAX_RECORD_BYTES,
  type Witness,
} from '../../../src/connections/movable.js'
import { FdbError } from '../../../src/errors.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { KINDS, type Side, type Talker } from '../../connections-support/movable-kinds.js'
import { openDescriptors } from '../../native/support.js'
import { pause, until } from '../../processes/until.js'

/** Opens `count` connections of `side`, each of which has been answered once. */
async function asked(side: Side, count: number): Promise<Talker[]> {
  const talkers: Talker[] = []
  for (let i = 0; i < count; i++) {
    const talker = await side.connect()
    await talker.ask()
    talkers.push(talker)
  }
  return talkers
}

function next(departures: Iterator<Departure | null, void, undefined>): Departure | undefined {
  for (;;) {
    const { done, value } = departures.next()
    if (done) return undefined
    if (value !== null) return value
  }
}

/** Takes out so many, and no more. */
async function taken({ moving }: Side, count: number): Promise<Departure[]> {
  const all: Departure[] = []
  await until('they leave', () => {
    const departures = moving.departures('auto')
    for (let one = next(departures); one !== undefined; one = next(departures))
      if (all.push(one) === count) break
    return all.length === count
  })
  return all
}

/** From another process, which sends bytes. */
function arriveMoved({ moving }: Side, { record, fds }: Departure): Witness | undefined {
  return moving.arrive(moving.check(Buffer.from(record), fds)!, 'moved')
}

const together = (talkers: readonly Talker[]) => Promise.all(talkers.map(talker => talker.ask()))

describe.each(KINDS)('connections $name', ({ side: open, takesAny }) => {
  const sides = () => Promise.all([open(), open()])

  it('go on in another process, to and fro, and their peers see nothing of it', async () => {
    const [one, other] = await sides()
    const talkers = await asked(one, 3)
    let before = 0
    for (let move = 0; move < 6; move++) {
      const [from, to] = move % 2 === 0 ? [one, other] : [other, one]
      for (const departure of await taken(from, 3)) arriveMoved(to, departure)
      expect([from.size, to.size]).toEqual([0, 3])
      await together(talkers)
      // By then each has the connections to the servers behind it that it keeps.
      if (move === 1) before = openDescriptors()
    }
    expect(talkers.some(({ gone }) => gone)).toBe(false)
    await until('no descriptor is left behind', () => openDescriptors() <= before)
  })

  it('stay small, whole and owned while they have no server', async () => {
    const [one, other] = await sides()
    await asked(one, 2)
    for (const departure of await taken(one, 2)) {
      expect(departure.record.length).toBeLessThanOrEqual(MAX_RECORD_BYTES)
      expect(departure.fds.length).toBeGreaterThan(0)
      expect(departure.fds.length).toBeLessThanOrEqual(MAX_CONNECTION_FDS)
      expect(departure.fds.every(fd => !fd.closed)).toBe(true)
      arriveMoved(other, departure)
      // The next process has them.
      expect(departure.fds.every(fd => fd.closed) || takesAny).toBe(true)
    }
  })

  it('answer, when they arrive, requests that came meanwhile', async () => {
    const [one, other] = await sides()
    const talkers = await asked(one, 2)
    const departures = await taken(one, 2)
    const answers = together(talkers)
    await pause(20)
    for (const departure of departures) arriveMoved(other, departure)
    await answers
  })

  it('answer a question of which a part has come, whether they leave with it or not', async () => {
    const [one, other] = await sides()
    const [talker] = await asked(one, 1)
    for (let round = 0; round < 6; round++) {
      const rest = await talker!.half()
      if (round % 2 === 1) await pause(10)
      const [from, to] = one.size > 0 ? [one, other] : [other, one]
      const departures = from.moving.departures('auto')
      for (let left = next(departures); left !== undefined; left = next(departures)) arriveMoved(to, left)
      await rest()
    }
    expect(talker!.gone).toBe(false)
  })

  it('leave one at a time; the server answers the others', async () => {
    const [one] = await sides()
    const talkers = await asked(one, 3)
    const left = await until('one leaves', () => next(one.moving.departures('auto')))
    expect([one.size, one.moving.movable]).toEqual([2, 2])
    let answered = 0
    const answers = talkers.map(talker => talker.ask().then(() => answered++))
    await until('the others answer', () => answered === 2)
    one.moving.arrive(left, 'returned')
    await Promise.all(answers)
  })

  it('come back as they were, and may leave again', async () => {
    const [one, other] = await sides()
    const talkers = await asked(one, 2)
    for (let round = 0; round < 3; round++) {
      for (const departure of await taken(one, 2)) one.moving.arrive(departure, 'returned')
      expect([one.size, one.moving.movable]).toEqual([2, 2])
      await together(talkers)
    }
    for (const departure of await taken(one, 2)) arriveMoved(other, departure)
    await together(talkers)
  })

  it('stay for good where they were refused, and are served there', async () => {
    const [one] = await sides()
    const [refused] = await asked(one, 1)
    const [first] = await taken(one, 1)
    const [other] = await asked(one, 1)
    const [second] = await taken(one, 1)
    one.moving.arrive(first!, 'refused')
    one.moving.arrive(second!, 'returned')
    expect([one.size, one.moving.movable]).toEqual([2, 1])
    const again = await taken(one, 1)
    expect(next(one.moving.departures('auto'))).toBeUndefined()
    await refused!.ask()
    one.moving.arrive(again[0]!, 'returned')
    await other!.ask()
  })

  it('stay closed and untouched by a look', async () => {
    const [one, other] = await sides()
    const [talker] = await asked(one, 1)
    const [departure] = await taken(one, 1)
    const { record, fds } = departure!
    const before = [native.openCount(), openDescriptors()]
    for (let i = 0; i < 5; i++) other.moving.check(Buffer.from(record), fds)
    expect([native.openCount(), openDescriptors()]).toEqual(before)
    expect(fds.some(fd => fd.closed)).toBe(false)
    expect(other.size).toBe(0)
    one.moving.arrive(departure!, 'returned')
    await talker!.ask()
  })

  it('meet a refusal with a code where they are none, and stay unchanged', async () => {
    const [one, other] = await sides()
    const [talker] = await asked(one, 1)
    const [departure] = await taken(one, 1)
    const { record, fds } = departure!
    const file = OwnedFd.own(native.memfd('none'), 'no connection')
    const listening = OwnedFd.own(
      native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }),
      'listener',
    )
    const before = [native.openCount(), openDescriptors()]
    for (const wrong of [[], [fds[0]!, fds[0]!, fds[0]!], [file], [listening]])
      expect(() => other.moving.check(record, wrong)).toThrow(FdbError)
    expect(() => other.moving.check(Buffer.from([0x0a, 0xff]), fds)).toThrow(FdbError)
    expect([native.openCount(), openDescriptors()]).toEqual(before)
    closeAll([file, listening])
    arriveMoved(other, departure!)
    await talker!.ask()
  })

  it.skipIf(takesAny)('close the descriptors with which they cannot go on', async () => {
    const [one, other] = await sides()
    await asked(one, 1)
    const [departure] = await taken(one, 1)
    const value = other.moving.check(departure!.record, departure!.fds)!
    const file = OwnedFd.own(native.memfd('none'), 'no connection')
    expect(() => other.moving.arrive({ ...value, fds: [file] }, 'moved')).toThrow()
    expect([file.closed, other.size]).toEqual([true, 0])
    one.moving.arrive(departure!, 'returned')
  })

  it('tell whether anything was asked and answered since they came', async () => {
    const [one, other] = await sides()
    const [talker] = await asked(one, 1)
    const [departure] = await taken(one, 1)
    const witness = arriveMoved(other, departure!)!
    expect([witness.asked, witness.answered]).toEqual([false, false])
    await talker!.ask()
    expect([witness.asked, witness.answered]).toEqual([true, true])
  })

  it('end where they arrive if their peers go meanwhile, and leave nothing', async () => {
    const [one, other] = await sides()
    const before = native.openCount()
    const talkers = await asked(one, 2)
    const departures = await taken(one, 2)
    for (const talker of talkers) talker.end()
    await pause(20)
    for (const departure of departures) arriveMoved(other, departure)
    await until('they have ended', () => one.size + other.size === 0)
    const spare = (one.spare ?? 0) + (other.spare ?? 0)
    expect(native.openCount() - spare).toBeLessThanOrEqual(before)
  })
})
