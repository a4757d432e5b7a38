import { afterEach, describe, expect, it, vi } from 'vitest'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { socketPair } from '../../../src/kernel/index.js'
import { ControlSocket, type ControlSocketDeps } from '../../../src/member/hosting/control-socket.js'

describe('the control socket of a member', () => {
  afterEach(() => void vi.useRealTimers())

  it('has one guard, also when it was put back, and none when it is closed', () => {
    vi.useFakeTimers()
    const settings = { control: null, service: 'shop', versions: { min: 1, max: 1 } }
    const shared = { generation: 1, serviceStartedAt: 0, segmentSet: new SegmentSet(), settings }
    const socket = new ControlSocket({ shared } as unknown as ControlSocketDeps)
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
