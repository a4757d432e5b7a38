// @ts-check
import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** @typedef {import('./process.mjs').Process} Process */
/** @typedef {(least: number, most: number) => number} Between */
/**
 * @typedef {{
 *   control: string, disk: string, between: Between,
 *   serves: Process,
 *   start: (more?: object) => Process,
 * }} Scene
 */
/**
 * One fault, and the upgrade around it. `seen`: which requests it may fail. `strike` returns the next versions that it started
 * or tried; the round waits until one process serves.
 * @typedef {{ name: string, seen: 'none' | 'durable' | 'all', strike: (scene: Scene) => Promise<Process[]> }} Fault
 */

/** A process needs so long to start on a busy machine. */
export const START_MS = 30_000
const pause = (/** @type {number} */ ms) => new Promise(resolve => setTimeout(resolve, ms))

/** A next version, held before its commit until `open`. @param {Scene} scene @param {object} [more] */
async function waiting(scene, more) {
  const young = scene.start(more)
  await young.says('waits', START_MS)
  return young
}

/** The same, behind its commit. @param {Scene} scene @param {object} [more] */
async function committed(scene, more) {
  const young = await waiting(scene, more)
  young.order('open')
  await young.says('serving', START_MS)
  return young
}

/** Stopped, and continued. @param {Process} process @param {number} ms */
async function stop(process, ms) {
  process.signal('SIGSTOP')
  await pause(ms)
  process.signal('SIGCONT')
}

/** @param {string} name @param {Fault['seen']} seen @param {Fault['strike']} strike @returns {Fault} */
const fault = (name, seen, strike) => ({ name, seen, strike })

/** @type {readonly Fault[]} */
export const FAULTS = [
  fault('none', 'none', async scene => [await committed(scene)]),
  fault('young killed before its commit', 'none', async scene => {
    const young = await waiting(scene)
    await pause(scene.between(0, 100))
    young.signal('SIGKILL')
    return [young]
  }),
  fault('young stopped before its commit', 'none', async scene => {
    const young = await waiting(scene)
    young.order('open')
    await pause(scene.between(0, 5))
    await stop(young, scene.between(200, 2_500))
    return [young]
  }),
  fault('young hung before its commit', 'none', async scene => {
    const young = await waiting(scene)
    young.order('hang', { ms: scene.between(200, 2_500) })
    young.order('open')
    return [young]
  }),
  fault('young throws before its commit', 'none', async scene => {
    const young = await waiting(scene, { throwsBefore: true })
    young.order('open')
    return [young]
  }),
  fault('young killed behind its commit', 'all', async scene => {
    const young = await committed(scene)
    await pause(scene.between(0, 600))
    young.signal('SIGKILL')
    return [young]
  }),
  fault('young stopped behind its commit, shortly', 'none', async scene => {
    const young = await committed(scene)
    await pause(scene.between(0, 300))
    await stop(young, scene.between(100, 1_000))
    return [young]
  }),
  fault('young stopped behind its commit, until it is taken for dead', 'none', async scene => {
    const young = await committed(scene)
    await pause(scene.between(0, 300))
    await stop(young, scene.between(2_500, 4_000))
    return [young]
  }),
  fault('young hung behind its commit, shortly', 'none', async scene => [
    await committed(scene, { itself: { act: 'hang', ms: scene.between(200, 1_300) } }),
  ]),
  fault('young hung behind its commit, until it is taken for dead', 'none', async scene => [
    await committed(scene, { itself: { act: 'hang', ms: scene.between(2_500, 4_000) } }),
  ]),
  fault('young throws behind its commit', 'all', async scene => [
    await committed(scene, { itself: { act: 'throw', ms: scene.between(0, 600) } }),
  ]),
  fault('young closes behind its commit', 'none', async scene => [
    await committed(scene, { itself: { act: 'close', ms: scene.between(0, 600) } }),
  ]),
  fault('old killed before the commit', 'all', async scene => {
    const young = await waiting(scene)
    scene.serves.signal('SIGKILL')
    await pause(scene.between(0, 100))
    young.order('open')
    return [young]
  }),
  fault('old stopped before the commit', 'none', async scene => {
    const young = await waiting(scene)
    const stopped = stop(scene.serves, scene.between(100, 2_500))
    young.order('open')
    await stopped
    return [young]
  }),
  fault('old hung before the commit', 'none', async scene => {
    const young = await waiting(scene)
    scene.serves.order('hang', { ms: scene.between(100, 2_500) })
    young.order('open')
    return [young]
  }),
  fault('old throws before the commit', 'all', async scene => {
    const young = await waiting(scene)
    scene.serves.order('throw')
    young.order('open')
    return [young]
  }),
  fault('old killed behind the commit', 'all', async scene => {
    const young = await committed(scene)
    await pause(scene.between(0, 300))
    scene.serves.signal('SIGKILL')
    return [young]
  }),
  fault('old stopped behind the commit', 'none', async scene => {
    const young = await committed(scene)
    await pause(scene.between(0, 300))
    await stop(scene.serves, scene.between(100, 2_500))
    return [young]
  }),
  fault('old hung behind the commit', 'none', async scene => {
    const young = await committed(scene)
    scene.serves.order('hang', { ms: scene.between(100, 2_500) })
    return [young]
  }),
  fault('the disk is full', 'durable', async scene => {
    const ballast = join(scene.disk, 'ballast')
    const { bavail, bsize } = statfsSync(scene.disk)
    try {
      writeFileSync(ballast, Buffer.alloc(Math.max(0, bavail * bsize - scene.between(0, 8_192))))
    } catch (error) {
      // The state file has grown meanwhile: the disk is full all the same.
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOSPC') throw error
    }
    const young = await committed(scene)
    await pause(scene.between(100, 500))
    rmSync(ballast)
    return [young]
  }),
  fault('the control path is removed', 'none', scene => upgradeWithout(scene, scene.control)),
  fault('the lock is removed', 'none', scene => upgradeWithout(scene, `${scene.control}.lock`)),
  fault('the folder of the control path is removed', 'none', scene =>
    upgradeWithout(scene, dirname(scene.control)),
  ),
  fault('all are killed', 'all', async scene => {
    scene.serves.signal('SIGKILL')
    await scene.serves.end(START_MS)
    return [scene.start()]
  }),
]

/** A start within a moment of the removal may be refused; one of those that follow gets through. @param {Scene} scene @param {string} path */
async function upgradeWithout(scene, path) {
  rmSync(path, { recursive: true, force: true })
  const tried = []
  for (let tries = 0; tries < 5; tries++) {
    await pause(scene.between(0, 1_500))
    const young = scene.start()
    tried.push(young)
    await young.says('waits', START_MS)
    young.order('open')
    if ((await young.says('serving', START_MS)) !== null) break
  }
  return tried
}
