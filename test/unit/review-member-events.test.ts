import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/join.js'
import { until } from '../processes/until.js'

it('a handler of the application that throws keeps nothing of the handoff from being done', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-review-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const errors: string[] = []
  const quiet = { debug() {}, info() {}, warn() {} }
  const logger = { ...quiet, error: (facts: object) => errors.push(String((facts as { err: Error }).err)) }
  const service = () =>
    join({
      service: 'shop',
      control: joinPath(folder, 'control.sock'),
      logger,
      upgrade: { probation: 60_000, heartbeat: 20 },
    })
  const first = await service()
  for (const event of ['serving', 'retiring'] as const) {
    first.on(event, () => {
      throw new Error(`the application's own mistake in ${event}`)
    })
  }
  let announced = 0
  const keeper = {
    connections: 0,
    announce: () => announced++,
    emptied: async () => {},
    cut: () => ({ idle: 0, busy: 0 }),
  }
  const web = await first.listen('web', 'tcp://127.0.0.1:0')
  web.serve(createServer(), keeper)
  await first.ready()
  const second = await service()
  await second.listen('web', 'tcp://127.0.0.1:0')
  await second.ready()
  await until('the first stands by', () => first.phase === 'standby')
  expect(announced).toBe(1)
  await until('it reports', () => second.status().draining.some(({ generation }) => generation === 1))
  expect(errors).toEqual([
    "Error: the application's own mistake in serving",
    "Error: the application's own mistake in retiring",
  ])
  await first.close({ timeout: 0 })
  await second.close({ timeout: 0 })
})
