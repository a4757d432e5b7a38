import { spawn } from 'node:child_process'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { socketPair } from '../../../src/kernel/index.js'
import { ControlSocket } from '../../../src/member/hosting/control-socket.js'
import { VERSIONS } from '../../../src/wire/link.js'
import { perLane } from '../../lanes/lane.js'
import { bundled } from '../../processes/bundled.js'
import { until } from '../../processes/until.js'

/** The acts upon a socket that need not keep its process alive in the end. */
const FREED = [
  'adopt open free adopt open',
  'adopt open free leave stay',
  'adopt free open',
  'free adopt open',
  'adopt open free',
  'adopt open free close open',
]

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

  it.each(perLane(FREED.slice(0, 2), FREED))(
    'lets its process end once it may, whatever happens to it: %s',
    async acts => {
      const { file, env } = bundled('control-socket-kept.ts')
      const child = spawn(process.execPath, [file, ...acts.split(' ')], { env, stdio: 'inherit' })
      onTestFinished(() => void child.kill('SIGKILL'))
      await until('the process has ended', () => child.exitCode !== null, 60_000)
      expect(child.exitCode).toBe(0)
    },
  )
})
