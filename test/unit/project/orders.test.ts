import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { Cell } from '../../orders/cell.js'
import { ordersPage } from '../../orders/page.js'
import { cellAt, everyPlace, type Place } from '../../orders/table.js'
import { testsOf } from '../../situations/titles.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
/** The most cells that no test plays, and the most without an answer. Lower these when you can. */
const MOST_CLAIMED = 0
const MOST_OPEN = 0

function placesWith(by: Cell['by']): Place[] {
  return everyPlace().filter(place => cellAt(place)?.by === by)
}

describe('the table of orders and phases', () => {
  it('has a cell for each order in each phase', () => {
    expect(everyPlace().filter(place => cellAt(place) === undefined)).toEqual([])
  })

  it(`has at most ${MOST_CLAIMED} cells that no test plays, and ${MOST_OPEN} without an answer`, () => {
    expect(placesWith('claim').length).toBeLessThanOrEqual(MOST_CLAIMED)
    expect(placesWith('open').length).toBeLessThanOrEqual(MOST_OPEN)
  })

  it('refers to phases that it has', () => {
    const wrong = placesWith('other').filter(place => {
      const cell = cellAt(place)
      return cell?.by === 'other' && cellAt({ ...place, phase: cell.phase })?.by === undefined
    })
    expect(wrong).toEqual([])
  })

  it('names tests that exist', () => {
    const wrong = placesWith('test').filter(place => {
      const cell = cellAt(place)
      if (cell?.by !== 'test') return true
      const tests = testsOf(readFileSync(join(root, cell.file), 'utf8'))
      return !tests.some(
        ({ title, conditions }) => title.startsWith(cell.title) && !conditions.includes('always'),
      )
    })
    expect(wrong).toEqual([])
  })

  it('matches docs/orders.md (npm run order-docs makes it)', () => {
    expect(readFileSync(join(root, 'docs/orders.md'), 'utf8')).toBe(ordersPage())
  })
})
