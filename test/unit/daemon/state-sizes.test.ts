import { expect, it } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { type StateSize, StateSizes } from '../../../src/daemon/services.js'

it('says once of each service when its state has come to be larger than it may, and when it is not any more', () => {
  const logged: unknown[] = []
  const say = (level: string) => (facts: object) => void logged.push([level, facts])
  const logger = { ...SILENT, warn: say('warn'), info: say('info') }
  let sizes: StateSize[] = []
  const watch = new StateSizes(() => sizes, logger)
  const look = (shop: number, mail: number) => {
    sizes = [
      { service: 'shop', bytes: shop, most: 100 },
      { service: 'mail', bytes: mail, most: 50 },
    ]
    watch.update()
    return logged.splice(0)
  }
  expect(look(100, 50)).toEqual([])
  expect(look(101, 50)).toEqual([['warn', { service: 'shop', bytes: 101, most: 100 }]])
  expect(look(120, 51)).toEqual([['warn', { service: 'mail', bytes: 51, most: 50 }]])
  expect(look(90, 51)).toEqual([['info', { service: 'shop', bytes: 90, most: 100 }]])
  expect(look(120, 51)).toHaveLength(1)
  // The service has ended, and another one of its name has begun.
  sizes = []
  watch.update()
  expect(look(120, 0)).toHaveLength(1)
})
