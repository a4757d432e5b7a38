import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { serviceStatus, serviceWhere, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

/** A PID namespace of its own: the process is number 1 there, as in a container. */
const APART = [
  'unshare',
  ...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']),
  ...['--pid', '--fork', '--kill-child', '--mount-proc'],
]
const UPGRADE = { probation: 60_000, heartbeat: 50, silence: 2_000 }

it.runIf(NIGHTLY)(
  'members that are all number 1 of their containers are told apart: a restarted daemon waits for each',
  async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE })
    const start = () => startDaemon(scene, { upgrade: UPGRADE }, { wrap: APART })
    const daemon = await start()
    const standby = await scene.serve({}, { wrap: APART })
    const serving = await scene.serve({}, { wrap: APART })
    await standby.says('retiring')
    await serving.order('put', { key: 'by', value: { item: 'the second' } })
    // The one that writes comes back last.
    const inside = pidInside(serving.pid)
    process.kill(inside, 'SIGSTOP')
    await daemon.kill()
    await start()
    await until('the one that stood by is heard', () => standby.said.some(({ phase }) => phase === 'orphan'))
    const waiting = await serviceWhere(
      scene,
      'the one that stood by is back',
      ({ phase, blockedBy }) => phase !== 'rebuilding' || blockedBy.length === 1,
    )
    expect(waiting).toMatchObject({ phase: 'rebuilding', blockedBy: [1] })
    for (let look = 0; look < 20; look++) {
      await pause(20)
      expect((await serviceStatus(scene)).phase).toBe('rebuilding')
    }
    process.kill(inside, 'SIGCONT')
    // The new daemon goes on with the probation: the second stands by.
    const isDecided = ({ phase }: { phase: string }) => phase === 'idle' || phase === 'probation'
    expect(await serviceWhere(scene, 'all are back', isDecided)).toMatchObject({
      generation: 2,
    })
    await serving.order('put', { key: 'by', value: { item: 'the second, again' } })
    expect(await serving.order('phase')).toBe('serving')
  },
)

/** The pid, seen from here, of the one child of an unshare. */
function pidInside(unshare: number): number {
  return Number(readFileSync(`/proc/${unshare}/task/${unshare}/children`, 'latin1').trim())
}
