import type { Socket } from 'node:net'
import { socketOver, socketPair } from '../kernel/index.js'
import { commandQuestion, type StartShell } from '../probing/command-question.js'
import type { Children } from './children.js'
import type { Probe } from './probe.js'
import { Repeated } from './repeated-probe.js'
import type { Asking } from './settings.js'

const SIGKILL = 9
/** What the command has started may keep its output open. */
const REST_MS = 100
/** Its output goes to descriptor 3. */
const TO_US = 'exec 1>&3 2>&3 3>&-\n'

/** Starts children, and kills them. */
export type Starts = Pick<Children, 'kill' | 'start'>

export interface CommandProbe {
  readonly text: string
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
}

/** Runs a line of the shell, which finds the version's process in FD_BROKER_PID. */
export function commandProbe(children: Starts, { text, cwd, env }: CommandProbe, asking: Asking): Probe {
  const questionTo = (pid: number) =>
    commandQuestion(text, shellOf(children, cwd, { ...env, FD_BROKER_PID: `${pid}` }))
  return new Repeated(questionTo, asking)
}

/** Starts lines of the shell as children. */
export function shellOf(children: Starts, cwd: string, env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const [own, theirs] = socketPair('output of a command')
    let said: Socket | undefined
    try {
      const argv = ['sh', '-c', TO_US + text]
      const start = { file: '/bin/sh', cwd, argv, env, fds: [theirs], deathSignal: SIGKILL }
      const pid = children.start(start, code => {
        const told = () => ended(code)
        if (said === undefined || said.closed) told()
        else {
          said.once('close', told)
          setTimeout(() => said?.destroy(), REST_MS)
        }
      })
      said = socketOver(own, {})
        .on('data', output)
        .on('error', () => {})
      return { kill: () => children.kill(pid) }
    } catch (error) {
      own.close()
      throw error
    } finally {
      theirs.close()
    }
  }
}
