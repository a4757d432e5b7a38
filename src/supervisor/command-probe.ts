import { commandQuestion } from '../probing/command-question.js'
import { childShell, type Starts } from '../probing/shell.js'
import type { Probe } from './probe.js'
import { Repeated } from './repeated-probe.js'
import type { Asking } from './settings.js'

export interface CommandProbe {
  readonly text: string
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
}

/** Runs a line of the shell, which finds the version's process in FD_BROKER_PID. */
export function commandProbe(children: Starts, { text, cwd, env }: CommandProbe, asking: Asking): Probe {
  const questionTo = (pid: number) =>
    commandQuestion(text, childShell(children, cwd, { ...env, FD_BROKER_PID: `${pid}` }))
  return new Repeated(questionTo, asking)
}
