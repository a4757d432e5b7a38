import { describe, expect, it } from 'vitest'
import { connectionsIn, reasonOf } from '../../fixtures/cli.js'

const control = '/run/fd-broker/daemon.sock'

describe('the connections for which fd-broker drain waits', () => {
  const edge = { service: 'edge', connections: 1, draining: [{ connections: 2 }] }
  const shop = { service: 'shop', connections: 40, draining: [{ connections: 50 }] }

  it('count for its service and its older versions, not for other services of the same daemon', () => {
    const daemon = { hosting: 'daemon', services: [edge, shop] } as const
    expect(connectionsIn(daemon, { control, service: 'edge' })).toBe(3)
    expect(connectionsIn(edge, { control })).toBe(3)
  })

  it('count for all workers', () => {
    const workers = { count: 2, all: [{ service: 'edge' }, { service: 'edge.1' }] }
    const main = { services: [edge, { service: 'edge.1', connections: 4 }], workers }
    for (const flags of [{ control }, { control, service: 'edge' }])
      expect(connectionsIn(main, flags)).toBe(7)
  })
})

describe('why a process that was told to end still lives', () => {
  const daemonOf = (own: object) => ({
    hosting: 'daemon' as const,
    pid: 1,
    services: [{ service: 'shop', pid: 7, ...own }],
  })

  it('names its connections, or says that it has none', () => {
    expect(reasonOf(daemonOf({ connections: 2 }), 7, undefined)).toMatch(/^it still has 2 connections\. /)
    expect(reasonOf(daemonOf({ connections: 0 }), 7, undefined)).toMatch(/^it has no connection left/)
  })

  it('does not say that it has none if it does not report them, as members in Go and Python do not', () => {
    expect(reasonOf(daemonOf({}), 7, undefined)).toBe(
      'it does not say how many connections it has: it ends with the last one, or at the end of its drain',
    )
    // A main process waits for its workers.
    expect(reasonOf(daemonOf({}), 1, undefined)).toMatch(/^it has no connection left/)
  })
})
