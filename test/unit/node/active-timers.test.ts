import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { compiled } from '../../processes/compiled.js'

/** Returns the active timers of a process that has run a program, by files. */
function timersOf(program: string, packages: Readonly<Record<string, string>> = {}): unknown {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-timers-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const write = (name: string, text: string) => {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  for (const [name, text] of Object.entries(packages)) write(`node_modules/${name}/index.js`, text)
  write(
    'program.mjs',
    `${program}
import { activeTimers } from '${compiled('node/active-timers')}'
console.log(JSON.stringify(activeTimers(1_001)))
process.exit()
`,
  )
  return JSON.parse(execFileSync(process.execPath, ['program.mjs'], { cwd: folder, encoding: 'utf8' }))
}

it('active timers are the intervals of the program’s files, with the place of their function', () => {
  expect(
    timersOf(`setInterval(function pollQueue() {}, 1_100)
setInterval(() => void Promise.resolve('a text that makes this function longer than is shown'), 2_000).unref()
class Shop { refresh() {} }
setInterval(new Shop().refresh.bind(new Shop()), 86_399_999)`),
  ).toEqual([
    { everyMs: 1_100, what: 'pollQueue() at program.mjs:1' },
    { everyMs: 2_000, what: expect.stringMatching(/^\(\) => .*a text.*… at program.mjs:2$/) },
    { everyMs: 86_399_999, what: 'refresh() at program.mjs:3' },
  ])
})

it('active timers of a scheduler are one, also if it uses timeouts; those of other packages and of Node are none', () => {
  const every = 'module.exports = run => setInterval(() => run(), 60_000)'
  const chain = 'module.exports = function next(run) { setTimeout(() => { run(); next(run) }, 60_000) }'
  expect(
    timersOf(
      `import { createServer } from 'node:http'
import { createRequire } from 'node:module'
const require = createRequire(import.meta.url)
for (const name of ['node-cron', 'node-cron', '@shop/agent']) require(name)(() => {})
createServer().listen(0)`,
      { 'node-cron': chain, '@shop/agent': every },
    ),
  ).toEqual([{ everyMs: null, what: 'node-cron' }])
})

it('active timers are no short intervals, no timeouts, and none that were cleared', () => {
  expect(
    timersOf(`setInterval(() => {}, 1_000)
setTimeout(() => {}, 30_000)
clearInterval(setInterval(() => {}, 5_000))`),
  ).toEqual([])
})
