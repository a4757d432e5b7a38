import { describe, expect, it } from 'vitest'
import { signalPid } from '../processes/launch.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 200, heartbeat: 50, silence: 10_000, prepare: 1_000 }

/** The successor stops itself when its incumbent is frozen and the segment sealed. */
async function frozen() {
  const scene = Scene.open({ upgrade: UPGRADE })
  const first = await scene.serve({ traps: { 'holder preparing': 'SIGSTOP successor' } })
  const second = await scene.start()
  await first.says('trapped')
  const answers: unknown[] = []
  const held = first.order('holdFile', { name: 'ledger' }).then(
    () => answers.push('held'),
    error => answers.push(error.code),
  )
  await until('the incumbent has the order', async () =>
    (await first.order<string[]>('holding')).includes('ledger'),
  )
  return { scene, first, second, answers, held }
}

describe('a descriptor that is given to the incumbent while the handoff commits', () => {
  it('waits, and is held by the incumbent when the handoff fails', async () => {
    const { first, second, answers, held } = await frozen()
    expect(answers).toEqual([])
    await second.kill()
    await held
    expect(answers).toEqual(['held'])
    expect((await first.status()).held).toEqual(['ledger'])
  })

  it('waits, and is refused when another process serves: nothing is acknowledged that would be lost', async () => {
    const { first, second, answers, held } = await frozen()
    expect(answers).toEqual([])
    signalPid(second.pid, 'SIGCONT')
    await held
    expect(answers).toEqual(['ERR_FDB_FENCED'])
    await first.end()
    expect((await second.status()).held).toEqual([])
  })
})
