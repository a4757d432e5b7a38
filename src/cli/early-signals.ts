import { forgetPreload } from '../os/command-line.js'

/** Imported first: until a command installs handlers, SIGUSR1 would open Node's inspector, and HUP or USR2 of a supervisor would end it. */
const LONG_RUNNING: ReadonlySet<string> = new Set(['proxy', 'serve', 'run', 'workers start'])
const [, , command = '', part = ''] = process.argv
const early = [command, `${command} ${part}`].some(each => LONG_RUNNING.has(each))
  ? (['SIGUSR1', 'SIGHUP', 'SIGUSR2'] as const)
  : (['SIGUSR1'] as const)

forgetPreload()
for (const signal of early) process.on(signal, () => {})
