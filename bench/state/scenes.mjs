// @ts-check
// Work with many routes beside their handoff; each scene measures every process that takes part.
import { writeFileSync } from 'node:fs'
import { serveDaemon } from '../../build/modules/index.js'
import { start } from './processes.mjs'
import { yamlOf } from './routes.mjs'

/** @typedef {{ ms: number, cpu: number, turn: number, work: number }} Measured */

/** Put in one bulk, read, and put once more with other values. @param {string} control @param {number} count */
export async function bulks(control, count) {
  const peer = await start('peer.mjs', control)
  await peer.ask('serve')
  const bulk = await peer.ask('load', { count })
  await peer.ask('quiet')
  const read = await peer.ask('read')
  if (read.read !== count) throw new Error(`${read.read} routes were read`)
  const again = await peer.ask('load', { count, turn: 7, merge: true })
  await peer.leave()
  return { bulk, read, again }
}

/** A member of another service of a daemon follows while all is put, and put again. @param {string} control @param {number} count */
export async function followed(control, count) {
  const daemon = await serveDaemon({ control })
  const hosting = 'daemon'
  const writer = await start('peer.mjs', control)
  const follower = await start('peer.mjs', control)
  await writer.ask('serve', { options: { hosting } })
  await follower.ask('serve', { options: { hosting, service: 'bench-follower', follow: 'bench-state' } })
  /** @type {Measured[]} */
  const seen = []
  for (const turn of [0, 7]) {
    await follower.ask('watch', { what: 'turns' })
    const { digest } = await writer.ask('load', { count, turn })
    await follower.ask('has', { digest })
    seen.push(await follower.ask('finish'))
  }
  await follower.leave()
  await writer.leave()
  await daemon.close()
  return seen
}

/** A process that begins with what is in its state file. @param {string} control @param {number} count */
export async function fromFile(control, count) {
  const options = { stateFile: { path: `${control}.state`, sync: 'never' } }
  const first = await start('peer.mjs', control)
  await first.ask('serve', { options })
  await first.ask('load', { count })
  await first.ask('quiet')
  await first.ask('saved')
  await first.leave()
  const second = await start('peer.mjs', control)
  const begun = await second.ask('serve', { options })
  if (begun.entries !== count) throw new Error(`${begun.entries} routes came from the file`)
  await second.leave()
  return begun
}

/**
 * The proxy reads a configuration again with so many routes, all of which lead elsewhere; then routes are made at run time, as many as `made`; then
 * another takes over.
 * @param {string} control @param {number} count @param {number} made
 */
export async function proxies(control, count, made) {
  const file = `${control}.yaml`
  writeFileSync(file, yamlOf(control, count))
  const first = await start('proxy.mjs', file)
  await first.ask('serve')
  await first.ask('quiet')
  writeFileSync(file, yamlOf(control, count, 1))
  const reload = await first.ask('reload')
  const follow = await first.ask('make', { count: made })
  await first.ask('quiet')
  const second = await start('proxy.mjs', file)
  await first.ask('watch')
  const taken = await second.ask('serve')
  const left = await first.ask('finish')
  if (taken.routes !== count + made) throw new Error(`${taken.routes} routes`)
  await first.leave()
  await second.leave()
  return { reload, follow, taken, left }
}
