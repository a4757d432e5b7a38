import { describe, expect, it } from 'vitest'
import { narrowAnswer } from '../../../src/cli/status-answer.js'

const control = '/run/fd-broker/broker.sock'
const daemon = { hosting: 'daemon', services: [{ service: 'shop' }, { service: 'mail' }] } as const
const all = [{ service: 'web' }, { service: 'web.1' }]
const main = { services: all, workers: { count: 2, all } }

describe('the status of one service', () => {
  it('of a daemon’s is of that one alone, and of workers of one of them; their plain name is that of all', () => {
    expect(narrowAnswer(daemon, { control, service: '' })).toBe(daemon)
    expect(narrowAnswer(daemon, { control, service: 'mail' })).toEqual({
      hosting: 'daemon',
      services: [{ service: 'mail' }],
    })
    expect(narrowAnswer(main, { control, service: 'web' })).toBe(main)
    expect(narrowAnswer(main, { control, service: 'web.1' })).toEqual({
      services: [{ service: 'web.1' }],
      workers: { count: 2, all: [{ service: 'web.1' }] },
    })
  })

  it('gives ERR_FDB_SERVICE for a missing one, with the existing ones', () => {
    const unknown = { control, service: 'nosuch' }
    expect(() => narrowAnswer(daemon, unknown)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_SERVICE', message: expect.stringContaining('shop, mail') }),
    )
    expect(() => narrowAnswer(main, unknown)).toThrow('web, web.1')
    expect(() => narrowAnswer({ service: 'shop' }, unknown)).toThrow('"shop", not to "nosuch"')
  })
})
