import { existsSync, readlinkSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Locations } from '../../../src/state/locations.js'
import { Segment } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'
import { leastOf, workOf } from '../../processes/worked.js'

describe('the memory of a large state', () => {
  it('does not grow by the places that are freed: no list of them must be moved, which would hold the event loop', () => {
    const locations = new Locations()
    const count = 1_500_000
    for (let n = 0; n < count; n++) locations.add(1, n + 1, 7)
    const before = process.memoryUsage().heapUsed
    for (let slot = 0; slot < count; slot++) locations.remove(slot)
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(4 * 1024 * 1024)
    const again = new Set<number>()
    for (let n = 0; n < count; n++) again.add(locations.add(2, n + 1, 7))
    expect([again.size, locations.end]).toEqual([count, count])
    expect(locations.add(3, 1, 7)).toBe(count)
  })

  it('returns to the kernel without holding the event loop', async () => {
    const bytes = Buffer.alloc(8 * 1024 * 1024, 1)
    let segment!: Segment
    let link = ''
    let file = ''
    const [worked] = await leastOf(20, async () => {
      const filled = (segment = Segment.create(1))
      onTestFinished(() => filled.close())
      for (let n = 0; n < 32; n++) expect(filled.append(bytes).refused).toBeNull()
      link = `/proc/self/fd/${filled.fd.raw}`
      file = readlinkSync(link)
      const working = workOf()
      filled.close()
      return [working()]
    })
    // 40 ms where this thread closes it.
    expect(worked).toBeLessThan(20)
    expect(segment.fd.closed).toBe(true)
    await until('its number is free', () => !existsSync(link) || readlinkSync(link) !== file)
  })
})
