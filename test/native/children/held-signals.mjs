// Holds SIGUSR2, sends it to itself, and becomes itself with the addon preloaded: says what is blocked there, in a child of it, and after the release.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { file, native } from './addon.mjs'

const USR2 = 1 << (constants.signals.SIGUSR2 - 1)
const say = word => process.stdout.write(`${word}\n`)
const blocked = text => Number.parseInt(/^SigBlk:\s*(\w+)$/m.exec(text)[1], 16) & USR2
const own = () => blocked(readFileSync('/proc/self/status', 'utf8'))
const [, script, stage] = process.argv
const program = [process.execPath, '', 'node', ...process.execArgv, script, 'second']
const bytes = texts => Buffer.from(texts.map(text => `${text}\0`).join(''))

if (stage === 'first') {
  process.on('SIGUSR2', () => say('the first image has got it'))
  native.holdSignals(USR2)
  process.kill(process.pid, 'SIGUSR2')
  const preload = [process.env.LD_PRELOAD ?? '', file].filter(each => each !== '').join(':')
  // All the rest too: a sanitizer and an emulator are told in it what they need.
  const env = { ...process.env, FD_BROKER_HELD_SIGNALS: USR2, LD_PRELOAD: preload }
  native.execute(bytes(program), bytes(Object.entries(env).map(each => each.join('='))), [])
}
say(`blocked ${own()}`)
process.on('SIGUSR2', () => {
  say('the second image has got it')
  clearInterval(lives)
})
// Neither the variable nor the addon makes a child hold anything.
const env = { FD_BROKER_HELD_SIGNALS: `${USR2}` }
const child = spawnSync('/bin/grep', ['SigBlk', '/proc/self/status'], { encoding: 'utf8', env })
say(`blocked in a child ${blocked(child.stdout)}`)
native.releaseSignals()
say(`blocked ${own()}`)
const lives = setInterval(() => {}, 1_000)
