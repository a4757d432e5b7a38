// Watches SIGTERM, and says what it and the listeners of the program get, in the order of that.
import { spawnSync } from 'node:child_process'
import { constants } from 'node:os'
import { native } from './addon.mjs'

const say = text => process.stdout.write(`${text}\n`)
const turns = async () => {
  for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setTimeout(resolve, 0))
}
const listeners = () => process.listenerCount('SIGTERM')

// The program's handle is there before and after the watch.
process.once('SIGTERM', () => say(`once, ${listeners()} left`))
const watch = native.watchSignal(constants.signals.SIGTERM, own => {
  say(`watched ${own ? 'its own' : 'of another'}, ${listeners()} listen`)
  if (listeners() === 0) throw new Error('as any uncaught one')
})
process.on('uncaughtException', error => say(error.message))
process.kill(process.pid, 'SIGTERM')
await turns()
spawnSync('kill', ['-TERM', String(process.pid)])
await turns()
process.on('SIGTERM', () => say('on'))
process.kill(process.pid, 'SIGTERM')
await turns()
watch.close()
watch.close()
process.kill(process.pid, 'SIGTERM')
await turns()
process.removeAllListeners('SIGTERM')
process.kill(process.pid, 'SIGTERM')
say('not reached')
