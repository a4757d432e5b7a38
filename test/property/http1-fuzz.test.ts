import { afterAll, describe, expect, it } from 'vitest'
import * as http1 from '../../src/http1/index.js'
import { compare } from '../http1-support/compare.js'
import { DEFECTS, DefectiveCopies, NO_DEFECT, placesOf } from '../http1-support/defects.js'
import { ALLOWED_DIFFERENCES, allowedAs } from '../http1-support/differences.js'
import { fuzz } from '../http1-support/fuzz.js'
import { perLane } from '../lanes/lane.js'

/** FDB_FUZZ=N runs N inputs, FDB_FUZZ_SEED=N others than the usual ones. */
const INPUTS = Number(process.env.FDB_FUZZ ?? perLane(1_200, 60_000))
const SEED = Number(process.env.FDB_FUZZ_SEED ?? 1)
const INPUTS_FOR_A_DEFECT = 60_000

describe('our reading of HTTP/1 beside that of Node', () => {
  it(
    `differs in ${INPUTS} seeded streams, whole and split, only as listed`,
    () => {
      const result = fuzz(http1, SEED, INPUTS)
      expect(result.found).toBeNull()
      expect(result.accepted / result.inputs, "share that Node's parser accepts").toBeGreaterThanOrEqual(0.3)
      expect(result.allowed.size, 'listed differences that were met').toBeGreaterThan(20)
    },
    60_000 + INPUTS,
  )

  it.each(ALLOWED_DIFFERENCES)('may differ in: $name', allowed => {
    const { difference } = compare(http1, allowed.example)
    if (difference !== null) expect(allowedAs(difference, http1)?.name).toBe(allowed.name)
  })

  it('has differences with names and reasons of their own', () => {
    expect(new Set(ALLOWED_DIFFERENCES.map(allowed => allowed.name)).size).toBe(ALLOWED_DIFFERENCES.length)
    expect(ALLOWED_DIFFERENCES.filter(allowed => allowed.why.length < 20)).toEqual([])
  })
})

describe('the fuzzing finds', () => {
  const copies = new DefectiveCopies()
  afterAll(() => copies.close())

  it('each defect, also those of the night, in exactly one place of the sources', () => {
    expect([NO_DEFECT, ...DEFECTS].filter(defect => placesOf(defect) !== 1).map(({ name }) => name)).toEqual(
      [],
    )
  })

  it('nothing in a copy without a defect', async () => {
    const copy = await copies.load(NO_DEFECT)
    expect(fuzz(copy, SEED, perLane(1_000, 5_000)).found).toBeNull()
  })

  it.each(
    perLane(
      DEFECTS.filter(({ rare }, at) => rare !== true && at % 6 === 0),
      DEFECTS,
    ),
  )('a parser in which $name', async defect => {
    const defective = await copies.load(defect)
    const result = fuzz(defective, SEED, INPUTS_FOR_A_DEFECT)
    expect(result.found, `nothing found in ${result.inputs} inputs`).not.toBeNull()
  })
})
