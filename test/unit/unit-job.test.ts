import { describe, expect, it } from 'vitest'
import { isStopped } from '../../src/supervisor/unit-job.js'

describe('the job of a unit', () => {
  it.each([
    ['stops it', 'shop.service\n  7 shop.service stop running\n', true],
    ['stops it among others', 'shop.service\n7 a.service start waiting\n8 shop.service stop waiting\n', true],
    ['restarts it', 'shop.service\n7 shop.service restart running\n', false],
    ['stops another', 'shop.service\n7 shop.service.d stop running\n8 a-shop.service stop running\n', false],
    ['is none', 'shop.service\nNo jobs running.\n', false],
    ['is not told', '', false],
  ])('%s', (_what, text, stops) => {
    expect(isStopped(text)).toBe(stops)
  })
})
