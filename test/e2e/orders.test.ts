import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { play } from '../orders/play.js'
import { cellAt, everyPlace, HOSTINGS, type Place } from '../orders/table.js'

/** In the gate some cells in which an order was once ignored, or ended more than it should. */
const GATE: readonly string[] = [
  'embedded, offering, stop',
  'embedded, committing, change',
  'embedded, returning, upgrade',
  'daemon, probation, rollback',
  'daemon, orphan, change',
  'auto, offering, stop',
  'auto, returned, TERM',
  'run, retiring, stop --drain',
  'workers, ending, upgrade',
]

function nameOf({ hosting, phase, order }: Place): string {
  return `${hosting}, ${phase}, ${order}`
}

const PLACES = everyPlace().flatMap(place => {
  const cell = cellAt(place)
  return cell?.by === 'play' ? [{ ...place, cell, name: nameOf(place) }] : []
})

describe('an order in a phase', () => {
  it('of the gate is one of the table', () => {
    const names = PLACES.map(({ name }) => name)
    expect(GATE.filter(name => !names.includes(name))).toEqual([])
  })

  it.each(PLACES.filter(({ name }) => NIGHTLY || GATE.includes(name)))(
    'has the effect of the table: $name',
    async ({ hosting, phase, order, cell }) => play(await HOSTINGS[hosting]!.stage(phase, order), cell),
  )
})
