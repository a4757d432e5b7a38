import { constants } from 'node:os'
import type { StartHook } from '../holder/hook-command.js'
import { type ChildStarter, shellStart } from '../probing/shell.js'
import { exitCodeText } from './failures.js'

/**
 * Starts hooks as children of a process that reaps all its children. The kernel kills the shell of a hook when this process ends; an abort of `givenUp` kills
 * its process group.
 */
export function childHook(children: ChildStarter, givenUp: AbortSignal): StartHook {
  return (command, env) => {
    const start = shellStart(`exec </dev/null >/dev/null\n${command}`, env)
    const deathSignal = constants.signals.SIGKILL
    let pid = 0
    const ended = new Promise<string | null>(resolve => {
      pid = children.start({ ...start, fds: [], deathSignal }, code =>
        resolve(code === 0 ? null : exitCodeText(code)),
      )
    })
    const kill = () => children.kill(pid)
    givenUp.addEventListener('abort', kill)
    return { ended: ended.finally(() => givenUp.removeEventListener('abort', kill)), kill }
  }
}
