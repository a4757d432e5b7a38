import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseAst } from 'vitest/node'
import { NIGHTLY } from '../../lanes/lane.js'
import { type Chosen, withMutants, withNotes } from '../../mutants/instrument.js'
import { interval } from '../../mutants/interval.js'
import { nativePlaces, withNativeMutants } from '../../mutants/native.js'
import { type Operators, Places } from '../../mutants/places.js'
import { inTurn, sample } from '../../mutants/sample.js'
import { sourcesBelow } from '../../walls/imports.js'

const RUNTIME = '/runtime.mjs'
const SOURCE = `export class Shelf {
  #top = 0
  put(epoch: number, log: Logger): boolean {
    if (epoch <= this.#top && !this.open) return false
    log.warn({ epoch }, epoch > 3 ? 'high' : 'low')
    if (epoch < 0) throw new FdbError('ERR_FDB_EPOCH', \`no \${epoch > 0}\`)
    this.#top = epoch
    return this.items.some(item => item.epoch === epoch)
  }
}
`

const DRIVER = `class Door {
  constructor() {
    this.#bell.start()
  }
  async open() {
    await this.#lock.take()
    if (this.#closing) return
    this.#isOpen = true
    this.#bell.on('rung', () => this.answer())
  }
  close(log: Logger) {
    clearTimeout(this.#timer)
    this.#timer = null
    log.info({}, 'closed')
  }
}
`

function chosenIn(source: string, operators?: Operators): Chosen[] {
  return new Places(source, operators).mutants.map((mutant, n) => ({
    ...mutant,
    id: n + 1,
    file: 'shelf.ts',
  }))
}

describe('mutants', () => {
  it('change the work of a source, not its messages', () => {
    const texts = chosenIn(SOURCE).map(({ within, kind, start, end }) =>
      [within, kind, SOURCE.slice(start, end)].join(': '),
    )
    expect(texts.toSorted()).toEqual([
      'Shelf.put: !==: item.epoch === epoch',
      'Shelf.put: >: epoch <= this.#top',
      'Shelf.put: >=: epoch < 0',
      'Shelf.put: always: epoch < 0',
      'Shelf.put: always: epoch <= this.#top && !this.open',
      'Shelf.put: every: this.items.some(item => item.epoch === epoch)',
      'Shelf.put: left out: this.#top = epoch',
      'Shelf.put: never: epoch < 0',
      'Shelf.put: never: epoch <= this.#top && !this.open',
      'Shelf.put: the other answer: false',
      'Shelf.put: ||: epoch <= this.#top && !this.open',
    ])
  })

  it('can all be in one source, also one within another, each behind its number', () => {
    const all = chosenIn(SOURCE)
    const text = withMutants(SOURCE, all, RUNTIME)
    for (const { id } of all) expect(text.split(`mutated(${id})`)).toHaveLength(2)
    expect(text.split('\n')[4]).toContain('log.warn({ epoch }')
  })

  it.runIf(NIGHTLY)('leave every source one that can be read, and so do notes', () => {
    const sources = sourcesBelow(join(import.meta.dirname, '../../..'), 'src')
    expect(sources.size).toBeGreaterThan(150)
    for (const [file, source] of sources) {
      const semantic = sample(
        chosenIn(source, 'semantic').map(each => ({ ...each, file })),
        Number.POSITIVE_INFINITY,
      )
      for (const text of [
        withMutants(source, chosenIn(source), RUNTIME),
        withMutants(source, semantic, RUNTIME),
        withNotes(source, file, RUNTIME),
      ])
        expect(() => parseAst(text, { lang: 'ts' }), file).not.toThrow()
    }
  })

  it('of drivers leave out, repeat and exchange effects, skip checks, and ignore events', () => {
    const texts = chosenIn(DRIVER, 'semantic').map(({ within, kind, start, end, text }) => [
      `${within}: ${kind}: ${DRIVER.slice(start, end).replace(/\s+/g, ' ')}`,
      text.replace(/\s+/g, ' '),
    ])
    expect(texts).toEqual([
      [
        "Door.open: swapped: this.#isOpen = true this.#bell.on('rung', () => this.answer())",
        "this.#bell.on('rung', () => this.answer()); this.#isOpen = true",
      ],
      ['Door.open: done twice: await this.#lock.take()', 'await this.#lock.take(); await this.#lock.take()'],
      ['Door.open: not awaited: await this.#lock.take()', 'this.#lock.take()'],
      ['Door.open: check skipped: this.#closing', 'false'],
      [
        "Door.open: done twice: this.#bell.on('rung', () => this.answer())",
        "this.#bell.on('rung', () => this.answer()); this.#bell.on('rung', () => this.answer())",
      ],
      ['Door.open: event ignored: this.answer()', 'undefined'],
      [
        'Door.close: swapped: clearTimeout(this.#timer) this.#timer = null',
        'this.#timer = null; clearTimeout(this.#timer)',
      ],
      ['Door.close: timer not cancelled: clearTimeout(this.#timer)', ''],
      ['Door.close: flag not reset: this.#timer = null', ''],
    ])
  })

  it('of drivers can all be in one source, in whatever order they were chosen', () => {
    const chosen = sample(chosenIn(DRIVER, 'semantic'), Number.POSITIVE_INFINITY)
    for (const order of [chosen, chosen.map(each => ({ ...each, id: chosen.length + 1 - each.id }))]) {
      const text = withMutants(DRIVER, order, RUNTIME)
      expect(() => parseAst(text, { lang: 'ts' })).not.toThrow()
      for (const { id } of order) expect(text.split(`mutated(${id})`)).toHaveLength(2)
    }
  })

  it('come in turn from each kind, without two that cross', () => {
    const place = (key: string, kind: string, start: number, end: number) => ({
      key,
      kind,
      start,
      end,
      file: 'a',
    })
    const all = [
      place('1', 'x', 0, 10),
      place('2', 'x', 5, 15),
      place('3', 'x', 6, 8),
      place('4', 'x', 20, 30),
      place('5', 'y', 40, 50),
    ]
    expect(sample(inTurn(all), 4).map(({ key }) => key)).toEqual(['1', '5', '3', '4'])
  })

  it('have an interval, also if the tests notice all or none of them', () => {
    const shown = (hits: number, count: number) => interval(hits, count).map(bound => bound.toFixed(3))
    expect(shown(50, 100)).toEqual(['0.404', '0.596'])
    expect(shown(20, 20)).toEqual(['0.839', '1.000'])
    expect(shown(0, 20)).toEqual(['0.000', '0.161'])
    expect(shown(0, 0)).toEqual(['0.000', '1.000'])
  })

  it('change constants, times among them', () => {
    const found = chosenIn('const WAIT_MS = 5_000\nconst ROOM = 64 * 1024\nconst name = 3\n')
    expect(found.map(({ kind, text }) => [kind, text])).toEqual([
      ['another constant', '(5_000) * 16 + 1'],
      ['another constant', '(64 * 1024) * 16 + 1'],
    ])
  })

  it('change C sources, each behind its number', () => {
    const folder = join(import.meta.dirname, '../../../native')
    for (const file of readdirSync(folder).filter(name => name.endsWith('.c'))) {
      const source = readFileSync(join(folder, file), 'utf8')
      const found = nativePlaces(source).map((mutant, n) => ({ ...mutant, id: n + 1 }))
      expect(found.length, file).toBeGreaterThan(0)
      const text = withNativeMutants(source, found)
      for (const { id } of found) expect(text.split(`fdb_mutated(${id})`)).toHaveLength(2)
    }
  })
})
