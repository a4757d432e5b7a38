// @ts-check
// Processes that do what they are told.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = fileURLToPath(new URL('.', import.meta.url))

/** @param {string} script of this folder @param {string} control @param {string} [clone] another one, which is built: runs its own script */
export async function start(script, control, clone) {
  const folder = clone === undefined ? HERE : join(clone, 'bench/state')
  const child = fork(join(folder, script), [control], {
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
    /** @param {string} order @param {object} [facts] @returns {Promise<any>} */
    ask(order, facts = {}) {
      child.send({ order, ...facts })
      return answer()
    },
    /** Lets the process go: it ends by itself when it has no peer left. */
    async leave() {
      child.disconnect()
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    },
  }
}
