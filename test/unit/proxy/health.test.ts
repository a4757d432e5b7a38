import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { HealthChecker } from '../../../src/proxy/health/health.js'
import { until } from '../../processes/until.js'

const never = new AbortController().signal

/** A process whose answers are these; then the last of them for ever. */
function healthOf(answers: readonly (string | null)[], within = 5_000) {
  let asked = 0
  const question = { name: 'it', run: async () => answers[Math.min(asked++, answers.length - 1)]! }
  const config = { passes: 2, within, interval: 1, timeout: 1_000 }
  const health = new HealthChecker(config, { check: question, socket: null }, SILENT)
  return { health, asked: () => asked }
}

describe('a process that has to prove that it is well', () => {
  it('has proved it by good answers in a row only', async () => {
    const { health, asked } = healthOf([null, 'no', null, null])
    await health.waitUntilHealthy(never, () => true)
    expect(asked()).toBe(4)
  })

  it('fails when it has not in its time, with what it answered last', async () => {
    const { health } = healthOf(['no'], 50)
    await expect(health.waitUntilHealthy(never, () => true)).rejects.toMatchObject({
      code: 'ERR_FDB_UNHEALTHY',
    })
  })

  it('has proved it by an answer in its time, however long the process was held up then', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void server.close())
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    const [socket] = (await once(server, 'connection')) as [Socket]
    const answered = async () => {
      await once(socket, 'data')
      return null
    }
    const config = { passes: 1, within: 100, interval: 1, timeout: 5_000 }
    const check = { name: 'it', run: answered }
    const proved = new HealthChecker(config, { check, socket: null }, SILENT).waitUntilHealthy(
      never,
      () => true,
    )
    client.write('x')
    for (const end = performance.now() + 200; performance.now() < end; );
    await proved
  })

  it('counts as well again once no caller asks any more', async () => {
    const { health } = healthOf(['no'])
    let needed = true
    health.watch(() => needed)
    await until('it is not well', () => health.report !== true)
    needed = false
    await until('it is well', () => health.report === true)
  })
})
