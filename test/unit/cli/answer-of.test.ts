import { describe, expect, it } from 'vitest'
import { narrowAnswer } from '../../../src/cli/status-answer.js'
import { serviceServedBy } from '../../fixtures/cli.js'

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

describe('the service of a process that hands back', () => {
  it('may be that of another worker than the first one', () => {
    const services = [
      { service: 'web', pid: 10, generation: 2 },
      { service: 'web.1', pid: 11, generation: 4 },
    ]
    expect(serviceServedBy({ services }, { pid: 11, generation: 4 })).toBe('web.1')
    // In another PID namespace another process may have the same pid.
    expect(serviceServedBy({ services }, { pid: 10, generation: 4 })).toBeUndefined()
    expect(serviceServedBy({ service: 'web', pid: 11 }, { pid: 11, generation: 4 })).toBeUndefined()
    expect(serviceServedBy(null, { pid: 11, generation: 4 })).toBeUndefined()
  })
})
