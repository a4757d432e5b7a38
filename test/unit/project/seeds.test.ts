import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseAst } from 'vitest/node'
import { NIGHTLY } from '../../lanes/lane.js'
import { ROOT } from '../../mutants/workspace.js'
import { isStale as isStaleInClient } from '../../seeds/clients.js'
import { SEEDS } from '../../seeds/list.js'
import { placeOf } from '../../seeds/place.js'
import { CLIENT_SEEDS } from '../../seeds/rooms/clients.js'
import { isStale, numbered, switchable } from '../../seeds/switchable.js'

const seeds = numbered(SEEDS)
const stale = seeds.filter(isStale).map(({ file, find }) => `${file}: ${find}`)

describe('the list of seeds', () => {
  it('has at least 200 seeds, and at least ten of each room', () => {
    const rooms = new Set(seeds.map(({ room }) => room))
    for (const room of rooms) expect(seeds.filter(seed => seed.room === room).length, room).toBeGreaterThan(9)
    expect(rooms.size).toBeGreaterThan(18)
    expect(seeds.length).toBeGreaterThan(199)
  })

  it('finds the text of every seed once in its source', () => {
    expect(stale).toEqual([])
    expect(CLIENT_SEEDS.filter(isStaleInClient)).toEqual([])
  })

  it('names a test that is there for every seed', () => {
    for (const { file, find, tests } of seeds) {
      expect(tests.length, `${file}: ${find}`).toBeGreaterThan(0)
      for (const test of tests) expect(existsSync(join(ROOT, test)), `${file}: ${test}`).toBe(true)
    }
  })

  it.runIf(NIGHTLY)('makes sources that can be read, with each seed behind its number', () => {
    for (const file of new Set(seeds.map(seed => seed.file))) {
      const source = readFileSync(join(ROOT, file), 'utf8')
      const own = seeds.filter(seed => seed.file === file && !isStale(seed))
      const text = switchable(source, file, '/runtime.mjs', own)
      for (const { id } of own) expect(text.split(`mutated(${id})`)).toHaveLength(2)
      if (file.endsWith('.ts')) expect(() => parseAst(text, { lang: 'ts' }), file).not.toThrow()
    }
  })
})

describe('the place of a seed', () => {
  const place = (source: string, find: string, put: string) => {
    const found = placeOf(source, { file: 'x.ts', find, put })
    return found && [source.slice(found.start, found.end), found.text]
  }

  it('spans the smallest expression that means the same alone', () => {
    expect(place('if (a < b && c) d()', 'a < b', 'a <= b')).toEqual(['a < b', 'a <= b'])
    expect(place('x = a + b * c', 'a + b', '(a + b)')).not.toEqual(['a', '(a'])
  })

  it('keeps the object of a call', () => {
    expect(place('this.a.b(1)', 'a.b(1)', 'a.c(1)')).toEqual(['this.a.b(1)', 'this.a.c(1)'])
  })

  it('spans a statement where one is left out', () => {
    expect(place('function f() { a(); b() }', 'a(); ', '')).toEqual(['{ a(); b() }', '{ b() }'])
  })

  it('gives null where the text is not there, or there twice', () => {
    expect(place('a()', 'b', 'c')).toBeNull()
    expect(place('a(a)', 'a', 'c')).toBeNull()
  })
})
