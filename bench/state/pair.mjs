// @ts-check
// Generations of one service, each a process: loads the first, and hands over from one to the next.
import { start } from './processes.mjs'

/** @typedef {'turns' | 'cpu'} Measure */

/** @param {string} control @param {number} count @param {string} [clone] the processes are those of this clone */
export async function startGenerations(control, count, clone) {
  let incumbent = await start('peer.mjs', control, clone)
  await incumbent.ask('serve')
  await incumbent.ask('load', { count })
  await incumbent.ask('quiet')
  const { bytes, digest } = await incumbent.ask('status')
  return {
    bytes,
    /** One handoff, and the same time without one before it. @param {Measure} what */
    async handOver(what) {
      const successor = await start('peer.mjs', control, clone)
      await incumbent.ask('quiet')
      const idle = await incumbent.ask('idle', { what, ms: 500 })
      await incumbent.ask('watch', { what })
      const taken = await successor.ask('take', { what })
      const left = await incumbent.ask('finish')
      if (taken.digest !== digest || taken.entries !== count) throw new Error('the state is not the same')
      await successor.ask('quiet')
      await incumbent.leave()
      incumbent = successor
      return { idle, left, taken }
    },
    end: () => incumbent.leave(),
  }
}
