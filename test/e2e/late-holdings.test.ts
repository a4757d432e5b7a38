import { unlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { servedBy, startDaemon } from '../processes/daemon.js'
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

describe.each(['embedded', 'daemon'] as const)(
  'a listener or descriptor that a version asks for only in its probation, %s hosting',
  hosting => {
    it('stays when the previous version has ended, and reaches the next one', async () => {
      const upgrade = { probation: 2_000, heartbeat: 50, silence: 1_000 }
      const scene = Scene.open({ hosting, upgrade })
      if (hosting === 'daemon') await startDaemon(scene, { upgrade })
      const [ledger, spec] = [scene.write('ledger', 'x'), `unix:${scene.file('late.sock')}`]
      const late = { name: 'late', spec }
      const first = await scene.serve()
      await first.order('holdFile', { name: 'ledger', file: ledger })
      await first.order('serveMore', late)
      const second = await scene.serve()
      if (hosting === 'daemon') await servedBy(scene, second)
      expect(await second.order('heldFile', { name: 'ledger' })).toEqual(ledger)
      await second.order('serveMore', late)
      await first.says('retired')
      const third = await scene.serve()
      const held = await third.order('heldFile', { name: 'ledger' })
      const served = third.order('serveMore', late).then(() => third.says('listener'))
      const { adopted } = await served.catch(error => ({ adopted: error.code }))
      expect({ held, adopted }).toEqual({ held: ledger, adopted: true })
    })
  },
)

describe.each(['embedded', 'daemon'] as const)(
  'a descriptor that is given to a version in its probation, %s hosting',
  hosting => {
    it.each(perLane(hosting === 'daemon' ? ['is killed'] : ['is not well'], ['is killed', 'is not well']))(
      'comes back with the service when that version %s, also in place of an earlier one',
      async how => {
        const upgrade = { probation: 60_000, heartbeat: 50, silence: 1_000 }
        const scene = Scene.open({ hosting, upgrade })
        if (hosting === 'daemon') await startDaemon(scene, { upgrade })
        const files = Object.fromEntries(
          ['old', 'new', 'early', 'more'].map(name => [name, scene.write(name, name)]),
        )
        const first = await scene.serve()
        await first.order('holdFile', { name: 'ledger', file: files.old })
        const sickFile = scene.file('sick')
        const readyFile = scene.file('ready')
        const second = await scene.start({ readyFile, sickFile })
        await second.order('holdFile', { name: 'early', file: files.early })
        scene.write('ready', '')
        await second.serving()
        await first.says('retiring')
        if (hosting === 'daemon') await servedBy(scene, second)
        await second.order('holdFile', { name: 'ledger', file: files.new })
        await second.order('holdFile', { name: 'more', file: files.more })
        if (how === 'is killed') await second.kill()
        else scene.write('sick', '')
        await first.says('reinstated')
        for (const [name, file] of [
          ['ledger', files.new],
          ['early', files.early],
          ['more', files.more],
        ])
          expect([name, await first.order('heldFile', { name })]).toEqual([name, file])
        await second.end()
        if (how === 'is not well') unlinkSync(sickFile)
        const third = await scene.serve({ sickFile: scene.file('none') })
        expect(await third.order('heldFile', { name: 'ledger' })).toEqual(files.new)
        expect((await third.status()).held.toSorted()).toEqual(['early', 'ledger', 'more'])
      },
    )

    it.runIf(NIGHTLY || hosting === 'embedded')(
      'closes when that version is released or gives up before its commit',
      async () => {
        const upgrade = { probation: 0, heartbeat: 50, silence: 1_000 }
        const scene = Scene.open({ hosting, upgrade })
        if (hosting === 'daemon') await startDaemon(scene, { upgrade })
        const first = await scene.serve()
        const second = await scene.start({ readyFile: scene.file('never') })
        await second.order('holdFile', { name: 'early' })
        await second.kill()
        expect(await first.order('heldFile', { name: 'early' })).toBeNull()
        expect((await first.status()).held).toEqual([])
        const third = await scene.serve()
        await third.order('holdFile', { name: 'ledger' })
        await first.end()
        expect((await third.status()).held).toEqual(['ledger'])
      },
    )
  },
)
