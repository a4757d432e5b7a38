import { constants } from 'node:os'
import type { StartShell } from '../../probing/command-question.js'

/** What the command has started may keep its output open. */
const REST_MS = 100
/** As the shell says it of a command. */
const COULD_NOT_START = 126

/** A shell in a process group of its own, with these variables over our own. */
export function shellWith(env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const { spawn } = process.getBuiltinModule('node:child_process')
    const child = spawn('/bin/sh', ['-c', text], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    // Without descriptors there are none.
    const streams = [child.stdout, child.stderr].filter(stream => stream != null)
    for (const stream of streams) stream.on('data', output)
    let over = false
    child.once('exit', () => {
      over = true
      setTimeout(() => {
        for (const stream of streams) stream.destroy()
      }, REST_MS)
    })
    child.once('close', (code, signal) => ended(code ?? 128 + constants.signals[signal!]))
    child.once('error', error => {
      over = true
      output(Buffer.from(error.message))
      ended(COULD_NOT_START)
    })
    return {
      kill() {
        // Not reaped yet: the number is still its own, and its group's.
        if (over || child.pid === undefined) return
        try {
          process.kill(-child.pid, 'SIGKILL')
        } catch {
          // It has become another user's.
        }
      },
    }
  }
}
