import { forgetPreload } from '../os/command-line.js'

/** Commands that run until a signal ends them. */
const LONG_RUNNING: ReadonlySet<string> = new Set(['proxy', 'serve', 'run', 'workers start'])
const [, , command = '', part = ''] = process.argv
const early: readonly NodeJS.Signals[] = [command, `${command} ${part}`].some(each => LONG_RUNNING.has(each))
  ? ['SIGUSR1', 'SIGHUP', 'SIGUSR2']
  : // The hidden command keep handles SIGHUP itself.
    command === 'keep'
    ? ['SIGUSR1', 'SIGUSR2']
    : ['SIGUSR1']

forgetPreload()
// This module is imported first: until the command handles signals, SIGUSR1 would open Node's inspector, and HUP or USR2 would end the process.
for (const signal of early) process.on(signal, () => {})
