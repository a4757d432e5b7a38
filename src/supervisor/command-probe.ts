import type { Children } from './children.js'
import type { Probe } from './probe.js'
import { Repeated } from './repeated-probe.js'

const SIGKILL = 9

/** Runs a line of the shell, which finds the version's process in FD_BROKER_PID. */
export function commandProbe(children: Children, text: string, cwd: string, env: NodeJS.ProcessEnv): Probe {
  return new Repeated(
    (signal, version) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason)
        const argv = ['sh', '-c', text]
        const given = { ...env, FD_BROKER_PID: `${version}` }
        const pid = children.start(
          { file: '/bin/sh', cwd, argv, env: given, fds: [], deathSignal: SIGKILL },
          code => {
            signal.removeEventListener('abort', end)
            resolve(code === 0 ? null : `the command ended with ${code}`)
          },
        )
        const end = () => children.kill(pid)
        signal.addEventListener('abort', end, { once: true })
      }),
  )
}
