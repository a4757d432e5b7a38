import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { Scene } from '../processes/scene.js'

const APP = fileURLToPath(new URL('../fixtures/app-once.mjs', import.meta.url))

function program(scene: Scene, config: { joinAfter?: number }, env: NodeJS.ProcessEnv = {}) {
  const FDB_ONCE = JSON.stringify({ control: scene.control, ...config })
  return scene.start({}, { command: [APP], env: { NODE_ENV: 'development', FDB_ONCE, ...env } })
}

/** Milestones, without the ticks. */
const storyOf = ({ story }: { readonly story: readonly string[] }) => story.filter(say => say !== 'tick')

describe('runOnce()', () => {
  it('starts work after a while where the process never joins', async () => {
    const scene = Scene.open()
    const alone = await program(scene, {})
    await alone.says('tick')
    expect(storyOf(alone)).toEqual(['started'])
  })

  it('stops what runs when the process joins late, and starts it again when it serves', async () => {
    const scene = Scene.open()
    const late = await program(scene, { joinAfter: 1_200 })
    await late.says('late work')
    expect(storyOf(late)).toEqual(['started', 'joins', 'stopped', 'started', 'serving', 'late work'])
  })

  it('waits for the member before it starts work, which runs in one process at a time; intervals that run in two are named', async () => {
    const scene = Scene.open()
    const first = await program(scene, { joinAfter: 0 })
    await first.says('late work')
    const second = await program(scene, { joinAfter: 0 })
    await second.says('late work')
    expect(storyOf(second)).toEqual(['joins', 'started', 'serving', 'late work'])
    expect(first.find('stopped')!.at).toBeLessThan(second.find('started')!.at)
    const { text } = await first.says('warning')
    expect(text).toMatch(
      /its intervals still run, .*setInterval of 1500 ms, pollTheQueue\(\) at file:.*app-once\.mjs:19:\d+\. Start them in runOnce/,
    )
    expect(text.match(/setInterval of/g)).toHaveLength(1)
    first.signal('SIGTERM')
    await first.end()
  })
})
