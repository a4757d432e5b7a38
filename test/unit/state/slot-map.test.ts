import { describe, expect, it, vi } from 'vitest'
import { KeyMap } from '../../../src/state/key-map.js'
import { type Layer, SlotMap } from '../../../src/state/slot-map.js'

const COUNT = 60_000

function withLayer(main: number, over: number, deleted = 0) {
  const slots = new SlotMap()
  for (let i = 0; i < main; i++) slots.add(`k${i}`, i)
  const layer: Layer = new KeyMap()
  for (let i = 0; i < over; i++) layer.set(`k${i}`, i < deleted ? null : COUNT + i)
  slots.setLayer(layer, Math.max(main, over) - deleted)
  return { slots, layer }
}

describe('the keys of a section with a bulk over them', () => {
  for (const [main, over, deleted] of [
    [COUNT, COUNT, 0],
    [COUNT, COUNT / 2, 100],
    [COUNT, 1000, 10],
    [1000, COUNT, 10],
    [0, COUNT, 0],
    [1000, 1000, 1000],
  ] as const) {
    it(`show once each: ${over} over ${main}, ${deleted} deleted`, () => {
      const { slots } = withLayer(main, over, deleted)
      const seen = [...slots.entries()]
      expect(new Set(seen.map(([key]) => key)).size).toBe(seen.length)
      expect(seen).toHaveLength(slots.size)
      for (const [key, slot] of seen) if (slots.get(key) !== slot) expect.fail(`${key} is elsewhere`)
    })

    it(`show so while they are merged: ${over} over ${main}, ${deleted} deleted`, () => {
      const { slots } = withLayer(main, over, deleted)
      const merge = slots.merge(() => {})
      const seen = new Set<string>()
      let came = 0
      for (const [key] of slots.entries()) {
        seen.add(key)
        if (++came % 20 === 0) merge.next()
      }
      expect([seen.size, came]).toEqual([slots.size, slots.size])
    })
  }

  it('come without a long run between two that passes over what the bulk has', () => {
    const { slots, layer } = withLayer(COUNT, COUNT)
    const asked = vi.spyOn(layer, 'has')
    const passed = vi.spyOn(KeyMap.prototype, 'has')
    let most = 0
    const keys = slots.keys()
    for (;;) {
      const before = asked.mock.calls.length + passed.mock.calls.length
      const { done } = keys.next()
      most = Math.max(most, asked.mock.calls.length + passed.mock.calls.length - before)
      if (done) break
    }
    passed.mockRestore()
    expect(most).toBeGreaterThan(0)
    expect(most).toBeLessThan(COUNT / 50)
  })
})
