import { describe, expect, it } from 'vitest'
import { KINDS, PLAIN, plainTimers, timersOf } from '../../walls/timers.js'

describe('the table of plain timers', () => {
  const rows = Object.entries(PLAIN).flatMap(([file, all]) =>
    all.map(row => ({ file, row: /^(?<place>[\w.# ]+?): (?<kind>[a-z ]+): ./.exec(row)?.groups })),
  )

  it('has a row for every timer of src that does not read first: say its kind in test/walls/timers.ts, or use afterReading()', () => {
    expect(plainTimers('src')).toEqual(rows.map(({ file, row }) => `${file}: ${row?.place}`).toSorted())
  })

  it('names a kind in each row', () => {
    expect(rows.filter(({ row }) => !(`${row?.kind}` in KINDS))).toEqual([])
  })

  it('finds timers in functions, methods and modules, by any name', () => {
    const source = `
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'

export class Waits {
  readonly look = () => setInterval(check, 1)

  /** setTimeout(no) */
  async #for(ms: number): Promise<void> {
    const inner = async () => {
      await sleep(ms)
    }
    await turn()
    return await race(inner(), AbortSignal.timeout(ms))
  }

  setTimeout(ms: number): this {
    return this.#raw.setTimeout(ms)
  }
}

async function outside(
  ms: number,
): Promise<void> {
  await start(setTimeout, ms)
}
setTimeout(act)
`
    expect(timersOf(source)).toEqual(['Waits.look', 'Waits.#for', 'Waits.#for', 'outside', 'the module'])
  })
})
