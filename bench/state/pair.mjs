// @ts-check
// Generations of one service, each a process: loads the first, and hands over from one to the next.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const peer = fileURLToPath(new URL('peer.mjs', import.meta.url))

/** @typedef {'turns' | 'cpu'} What */

/** A process that does what it is told. @param {string} control */
async function start(control) {
  const child = fork(peer, [control], {
    execArgv: ['--expose-gc'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const failed = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`a process under test ended (${code ?? signal})`)
  })
  failed.catch(() => {})
  const answer = async () => {
    const [{ ok, error }] = await Promise.race([once(child, 'message'), failed])
    if (error) throw new Error(error)
    return ok
  }
  await answer()
  return {
    /** @param {string} order @param {object} [facts] */
    ask(order, facts = {}) {
      child.send({ order, ...facts })
      return answer()
    },
    /** It has been replaced, and ends by itself when nobody talks to it. */
    async leave() {
      child.disconnect()
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    },
  }
}

/** @param {string} control @param {number} count */
export async function startGenerations(control, count) {
  let incumbent = await start(control)
  const { bulk, bytes, digest } = await incumbent.ask('load', { count })
  return {
    bytes,
    bulk,
    /** One handoff, and the same time without one before it. @param {What} what */
    async handOver(what) {
      const successor = await start(control)
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
