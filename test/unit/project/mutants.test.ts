import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseAst } from 'vitest/node'
import { NIGHTLY } from '../../lanes/lane.js'
import { type Chosen, withMutants, withNotes } from '../../mutants/instrument.js'
import { nativePlaces, withNativeMutants } from '../../mutants/native.js'
import { Places } from '../../mutants/places.js'
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

function chosenIn(source: string): Chosen[] {
  return new Places(source).mutants.map((mutant, n) => ({ ...mutant, id: n + 1, file: 'shelf.ts' }))
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
      for (const text of [withMutants(source, chosenIn(source), RUNTIME), withNotes(source, file, RUNTIME)])
        expect(() => parseAst(text, { lang: 'ts' }), file).not.toThrow()
    }
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
