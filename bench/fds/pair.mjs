// @ts-check
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { native } from '../../build/modules/kernel/native.js'

/** @typedef {import('./peer.mjs').Run} Run */

const peer = fileURLToPath(new URL('peer.mjs', import.meta.url))

/**
 * A process in the given role, with `fd` as its descriptor 3; our copy is closed.
 * @param {string} role
 * @param {number} fd
 */
export function startPeer(role, fd) {
  const child = fork(peer, [role], { stdio: ['ignore', 'inherit', 'inherit', fd, 'ipc'] })
  native.close(fd)
  child.on('exit', code => {
    if (code) throw new Error(`the process in the role ${role} failed with exit code ${code}`)
  })
  return child
}

/** Our sender and receiver, each a process, over one socket pair. */
export async function startPair() {
  const [left, right] = native.socketPair()
  const sender = startPeer('send', left)
  const receiver = startPeer('receive', right)
  const [listeners] = await once(sender, 'message')
  receiver.send(listeners)
  return {
    /** @param {Run} run @returns {Promise<number>} seconds */
    async run(run) {
      receiver.send(run)
      await once(receiver, 'message')
      sender.send(run)
      const [{ seconds }] = await once(receiver, 'message')
      return seconds
    },
    close() {
      sender.disconnect()
      receiver.disconnect()
    },
  }
}

/**
 * Compiles baseline.c with the machine's cc.
 * @param {string} folder for the binary
 */
export function buildBaseline(folder) {
  const binary = join(folder, 'baseline')
  const source = fileURLToPath(new URL('baseline.c', import.meta.url))
  execFileSync(process.env.CC ?? 'cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', binary, source], {
    stdio: 'inherit',
  })
  return {
    /** @param {Run} run @returns {number} seconds */
    run({ mode, count, messages, window }) {
      const args = [mode === 'verified' ? 'verified' : 'raw', count, messages, window].map(String)
      return Number(execFileSync(binary, args, { encoding: 'latin1' }))
    },
  }
}
