import { forgetPreload } from '../os/command-line.js'

/**
 * Imported before all else. Node opens its inspector on SIGUSR1, which a server's command line must not do; and signals that a supervisor
 * sends to a server that is just starting (HUP: read the configuration, USR2: upgrade) end a process that has no handler yet.
 */
const LONG_RUNNING: ReadonlySet<string> = new Set(['proxy', 'serve', 'run', 'workers start'])
const [, , command = '', part = ''] = process.argv
const early = [command, `${command} ${part}`].some(each => LONG_RUNNING.has(each))
  ? (['SIGUSR1', 'SIGHUP', 'SIGUSR2'] as const)
  : (['SIGUSR1'] as const)

forgetPreload()
for (const signal of early) process.on(signal, () => {})
