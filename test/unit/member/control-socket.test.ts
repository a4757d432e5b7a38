import { afterEach, describe, expect, it, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { resolveTimes } from '../../../src/holder/times.js'
import { socketPair } from '../../../src/kernel/index.js'
import { OlderGenerations } from '../../../src/member/drain/older-generations.js'
import { ControlSocket } from '../../../src/member/hosting/control-socket.js'
import { VERSIONS } from '../../../src/wire/link.js'
import { ChangeNotifier } from '../../../src/wire/pending.js'
import { StateLog } from '../../fixtures/state.js'

describe('the control socket of a member', () => {
  afterEach(() => void vi.useRealTimers())

  it('has one guard, also when it was put back, and none when it is closed', () => {
    vi.useFakeTimers()
    const older = new OlderGenerations({
      settings: { drainGenerations: 1, drainTimeout: 1_000, logger: SILENT },
      generation: 1,
      serviceStartedAt: 0,
      changes: new ChangeNotifier(),
      segmentSet: new SegmentSet(),
      moves: { emptied: () => {}, receive: () => {} },
      state: new StateLog(),
    })
    const socket = new ControlSocket({
      settings: {
        control: null,
        service: 'shop',
        versions: VERSIONS,
        logger: SILENT,
        reception: null,
        times: resolveTimes(),
        timeout: 1_000,
        mainProcess: 'refuse',
        systemd: 'off',
      },
      generation: 1,
      serviceStartedAt: 0,
      machine: { member: { accepting: false }, holder: null },
      shutdown: { closing: false, over: false },
      hosting: () => ({ holder: null, probationLeftMs: null, stuckIncumbent: null }),
      operations: {
        status: vi.fn(),
        upgrade: vi.fn(),
        command: vi.fn(),
      },
      older,
    })
    const [first, second] = socketPair('listener')
    socket.adopt({ listener: first })
    socket.open()
    expect(vi.getTimerCount()).toBe(1)
    socket.adopt({ listener: second })
    socket.open()
    expect(vi.getTimerCount()).toBe(1)
    socket.close()
    expect(vi.getTimerCount()).toBe(0)
    second.close()
  })
})
