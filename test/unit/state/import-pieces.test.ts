import { expect, it, onTestFinished, vi } from 'vitest'
import { join } from '../../../src/index.js'
import { OperatorClient } from '../../../src/operator.js'
import { Scene } from '../../processes/scene.js'

const turn = () => new Promise(resolve => setImmediate(resolve))

it('an import goes on with a piece that has come within 30 s, though the service was stopped then', async () => {
  const { control } = Scene.open()
  const member = await join({ service: 'shop', control })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  using client = await OperatorClient.connect(control)
  vi.useFakeTimers({ toFake: ['setTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const send = (part: number) =>
    client.command('fd-broker.state.part', `${JSON.stringify({ import: 'one', part })}\n`)
  await send(0)
  // As after a stop: timers run first, then this process reads.
  await turn()
  const second = send(1)
  vi.advanceTimersByTime(30_000)
  await second
  vi.advanceTimersByTime(30_000)
  await turn()
  await turn()
  await expect(send(2)).rejects.toMatchObject({ code: 'ERR_FDB_STATE_MOVED' })
})
