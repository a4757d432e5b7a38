import { afterEach, describe, expect, it, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { socketPair } from '../../../src/kernel/index.js'
import { ControlSocket } from '../../../src/member/hosting/control-socket.js'
import { VERSIONS } from '../../../src/wire/link.js'

describe('the control socket of a member', () => {
  afterEach(() => void vi.useRealTimers())

  it('has one guard, also when it was put back, and none when it is closed', () => {
    vi.useFakeTimers()
    const socket = new ControlSocket({
      settings: { control: null, service: 'shop', versions: VERSIONS, logger: SILENT, reception: null },
      machine: { member: { accepting: false }, holder: null },
      shutdown: { closing: false, over: false },
      hosting: () => ({ holder: null }),
      clients: { receive: () => {}, refuseLeaving: () => {}, dismissOlder: () => {} },
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
