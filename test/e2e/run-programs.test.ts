import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { loadOn } from '../processes/load.js'
import { PROGRAMS, SERVER, Supervised } from '../processes/supervised.js'
import { goServer, gunicorn, has } from '../processes/toolchains.js'

const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }
/** Every other one crashes at its start. */
const UPGRADES = perLane(2, 6)
/** Requests per second. */
const RATE = perLane(150, 1_000)

/** Upgrades it under load: no request may be lost, and what was started last serves. */
async function upgraded(run: Supervised, rate = 200): Promise<void> {
  const load = await loadOn(run.url, { ...FRESH, rate })
  for (let generation = 2; generation <= 1 + UPGRADES; generation++) {
    const { code, stderr } = await run.upgrade()
    if (generation % 2 === 0)
      expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringMatching(/EXITED/) })
    else expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  }
  await load.stop()
  expect(await run.status()).toMatchObject({ generation: 1 + UPGRADES, role: 'serving' })
}

describe('fd-broker run upgrades, while every other version crashes at its start,', () => {
  it(`a Node program, at ${RATE} requests a second`, async () => {
    const env = { FDB_SUPERVISED: JSON.stringify({ crashEven: true }) }
    await upgraded(await Supervised.start(['--ready', 'fd'], [SERVER], env), RATE)
  })

  it.runIf(NIGHTLY)('a plain Python server', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const command = ['python3', join(PROGRAMS, 'server.py')]
    // Longer than it takes to crash, on a machine that others use too.
    await upgraded(await Supervised.start(['--ready', 'delay:2500ms'], command, { FDB_CRASH: '1' }))
  })

  it.runIf(NIGHTLY)('gunicorn, which is asked through a listener of its own', async ({ skip }) => {
    const folder = await gunicorn()
    if (folder === null) skip('gunicorn cannot be installed here')
    const options = ['--workers', '2', '--graceful-timeout', '10', '--log-level', 'warning']
    const command = ['python3', '-m', 'gunicorn', ...options, 'app:app']
    const env = { FDB_CRASH: '1', PYTHONPATH: `${folder}:${PROGRAMS}`, PYTHONDONTWRITEBYTECODE: '1' }
    await upgraded(await Supervised.start(['--ready', 'http:/r/1', '--healthy-for', '300ms'], command, env))
  })

  it.runIf(NIGHTLY)('a Go program', async ({ skip }) => {
    const file = await goServer()
    if (file === null) skip('there is no Go toolchain')
    await upgraded(await Supervised.start(['--ready', 'delay:1500ms'], [file!], { FDB_CRASH: '1' }), 500)
  })
})
