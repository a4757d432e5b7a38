import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const APP = fileURLToPath(new URL('../fixtures/app-once.mjs', import.meta.url))

function program(scene: Scene, config: { joinAfter?: number }, env: NodeJS.ProcessEnv = {}) {
  const FDB_ONCE = JSON.stringify({ control: scene.control, ...config })
  return scene.start({}, { command: [APP], env: { NODE_ENV: 'development', FDB_ONCE, ...env } })
}

/** Milestones, without the ticks. */
const storyOf = ({ story }: { readonly story: readonly string[] }) => story.filter(say => say !== 'tick')

describe('runOnce()', () => {
  it('starts work after a while where the process never joins', async () => {
    const scene = Scene.open()
    const alone = await program(scene, {})
    await alone.says('tick')
    expect(storyOf(alone)).toEqual(['started'])
  })

  it('stops what runs when the process joins late, and starts it again when it serves', async () => {
    const scene = Scene.open()
    const late = await program(scene, { joinAfter: 1_200 })
    await late.says('late work')
    expect(storyOf(late)).toEqual(['started', 'joins', 'stopped', 'started', 'serving', 'late work'])
  })

  it('waits for the member before it starts work, which runs in one process at a time; intervals that run in two are named', async () => {
    const scene = Scene.open()
    const first = await program(scene, { joinAfter: 0 })
    await first.says('late work')
    const second = await program(scene, { joinAfter: 0 })
    await second.says('late work')
    expect(storyOf(second)).toEqual(['joins', 'started', 'serving', 'late work'])
    expect(first.find('stopped')!.at).toBeLessThan(second.find('started')!.at)
    const { text } = await first.says('warning')
    expect(text).toMatch(
      /was replaced, and until it ends its timers run beside .* twice: setInterval of 1500 ms, pollTheQueue\(\) at \S*app-once\.mjs:\d+\. Start a timer that must run only once in runOnce\(\)/,
    )
    expect(text.match(/setInterval of/g)).toHaveLength(1)
    first.signal('SIGTERM')
    await first.end()
  })

  const UNDER_AUTO = `import { appendFileSync } from 'node:fs'
import http from 'node:http'
import { runOnce } from 'fd-broker'
const note = text => appendFileSync('journal', text + ' ' + process.pid + '\\n')
runOnce(() => {
  note('start')
  return () => note('stop')
})
http.createServer((_request, response) => response.end('hello')).listen(8080, '127.0.0.1')
`

  it('runs work once over upgrades of a program under fd-broker/auto', async () => {
    const program = await AutoProgram.of(UNDER_AUTO)
    const first = await program.serve()
    await until('the first works', () => program.read('journal').includes(`start ${first}\n`))
    const second = await program.serve('import', 2)
    await until('the second works', () => program.read('journal').includes(`start ${second}\n`))
    expect(program.read('journal')).toBe(`start ${first}\nstop ${first}\nstart ${second}\n`)
  })

  it('has no part in timers, of which a replaced program under fd-broker/auto names those that may do a job, while it stands by', async () => {
    const program = await AutoProgram.of(`import { createRequire } from 'node:module'
import http from 'node:http'
const require = createRequire(import.meta.url)
require('node-cron')(() => {})
require('agent')(() => {})
const server = http.createServer((_request, response) => response.end('hello')).listen(8080, '127.0.0.1')
process.on('SIGTERM', () => server.close(() => process.exit()))
setInterval(function pollTheQueue() {}, 1500)
`)
    program.write(
      'node_modules/node-cron/index.js',
      'module.exports = function next(run) { setTimeout(() => { run(); next(run) }, 60_000) }\n',
    )
    program.write(
      'node_modules/agent/index.js',
      'module.exports = send => setInterval(() => send(), 10_000)\n',
    )
    const development = { NODE_ENV: 'development' }
    const first = await program.serve('import', 1, development)
    await program.serve('import', 2, development)
    await program.says(`process ${first} was replaced, and until it ends its timers run`)
    expect(hasEnded(first)).toBe(false)
    expect(program.output).toMatch(
      /done twice: jobs of node-cron; setInterval of 1500 ms, pollTheQueue\(\) at server\.mjs:8\. Start/,
    )
  })

  it.runIf(NIGHTLY)('runs work of a program that fd-broker/auto leaves without upgrades', async () => {
    const program = await AutoProgram.of(UNDER_AUTO)
    const pid = await program.launch('import', { FD_BROKER_CONTROL: '/nowhere/at/all.sock' })
    await until('it works', () => program.read('journal').includes(`start ${pid}\n`))
    expect(program.output).toContain('runs without upgrades')
  })
})
