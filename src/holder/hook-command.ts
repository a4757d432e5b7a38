import { atExit } from '../base/at-exit.js'
import { trySignal } from '../kernel/index.js'
import { shellStart } from '../probing/shell.js'
import { exitText, startDetached } from '../versions/spawn-successor.js'

/** The command of a hook that runs. */
export interface HookCommand {
  /** Resolves at its end with null, or with how it failed: `with code 3`. */
  readonly ended: Promise<string | null>
  /** Kills its process group. */
  kill(): void
}

/** Starts `sh -c command`, whose process group is its own, and whose stderr is that of this process. Rejects, or throws, if it cannot be started. */
export type StartHook = (command: string, env: NodeJS.ProcessEnv) => HookCommand | Promise<HookCommand>

/** Starts hooks through Node. If this process ends by itself, its hook is killed. */
export const detachedHook: StartHook = async (command, env) => {
  const child = await startDetached(shellStart(command, env), ['ignore', 'ignore', 'inherit'])
  const kill = () => trySignal(-child.pid, 'SIGKILL')
  const letLive = atExit(kill)
  const ended = new Promise<string | null>(resolve =>
    child.onExit(exit => {
      letLive()
      resolve(exit.code === 0 ? null : exitText(exit))
    }),
  )
  return { ended, kill }
}
