// @ts-check
// npm run bench -- workers: changes of the state that two workers share. How many a second the first one makes, which decides them, and the other,
// whose changes go through the main process; 1 and 32 at a time: puts, updates of different keys, and updates of one key. The median of several rounds counts.
// Options: --changes 1000 --rounds 5 --json FILE
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { freePort } from '../free-port.mjs'
import { median } from '../median.mjs'
import { CLI } from '../proxy/edge.mjs'
import { Figures, Progress } from '../report.mjs'
import { status } from '../status.mjs'

const { values: flags } = parseArgs({
  options: {
    changes: { type: 'string', default: '1000' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
})
const APP = fileURLToPath(new URL('../../test/fixtures/app-workers.mjs', import.meta.url))
const KINDS = { put: 'puts', update: 'updates of different keys', hot: 'updates of one key' }
const WORKERS = ['the first worker', 'the other']
const AT_ONCE = 32
/** The least gain of parallel work over serial work: parallel writers share the way and the wait. */
const LEAST_GAIN = { put: 1.5, update: 2 }

/** @param {string} url @param {Agent} agent @returns {Promise<{ pid: number, body: string }>} */
function ask(url, agent) {
  return new Promise((resolve, reject) => {
    const asked = request(url, { agent }, response => {
      let body = ''
      response.setEncoding('utf8').on('data', text => {
        body += text
      })
      response.on('end', () => {
        if (response.statusCode === 200) resolve({ pid: Number(response.headers['x-pid']), body })
        else reject(new Error(body))
      })
    })
    asked.on('error', reject).end()
  })
}

/** A connection to each worker, in their order. @param {string} url @param {string} control */
async function agentsTo(url, control) {
  const { workers } = /** @type {any} */ (await status(control))
  /** @type {Agent[]} */
  const agents = []
  for (const { pid } of workers.all) {
    for (let tries = 0; ; tries++) {
      if (tries === 1_000) throw new Error(`process ${pid} answers no connect`)
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      if ((await ask(url, agent)).pid === pid) {
        agents.push(agent)
        break
      }
      agent.destroy()
    }
  }
  return agents
}

const folder = mkdtempSync(join(tmpdir(), 'fd-broker-workers-'))
const control = join(folder, 'main.sock')
const port = await freePort()
const start = [
  'workers',
  'start',
  '--service',
  'shop',
  '--control',
  control,
  '--count',
  '2',
  '--log-level',
  'info',
]
const main = spawn(
  process.execPath,
  [CLI, ...start, '--', process.execPath, APP, `tcp://127.0.0.1:${port}`],
  {
    stdio: ['ignore', 'ignore', 'pipe'],
  },
)
const progress = new Progress()
try {
  const serve = new Promise(resolve => {
    main.stderr.setEncoding('utf8').on('data', text => text.includes('the workers serve') && resolve(null))
  })
  await Promise.race([
    serve,
    once(main, 'exit').then(([code]) => Promise.reject(new Error(`the main process has ended: ${code}`))),
  ])
  const url = `http://127.0.0.1:${port}`
  const agents = await agentsTo(url, control)
  /** @type {Map<string, number[]>} */
  const measured = new Map()
  for (let round = 0; round < Number(flags.rounds); round++) {
    progress.say(`round ${round + 1} of ${flags.rounds}`)
    for (const [place, agent] of agents.entries())
      for (const kind of Object.keys(KINDS))
        for (const atOnce of [1, AT_ONCE]) {
          const { body } = await ask(`${url}/bench/${kind}/${flags.changes}/${atOnce}`, agent)
          const name = `${place} ${kind} ${atOnce}`
          measured.set(name, [...(measured.get(name) ?? []), Number(body)])
        }
  }
  progress.clear()
  for (const agent of agents) agent.destroy()
  const of = (/** @type {string} */ name) => median(measured.get(name) ?? [])
  const figures = new Figures('workers')
  for (const [place, worker] of WORKERS.entries())
    for (const [kind, changes] of Object.entries(KINDS))
      for (const atOnce of [1, AT_ONCE])
        figures.info(
          `${worker}, ${changes}, ${atOnce} at a time`,
          of(`${place} ${kind} ${atOnce}`),
          'a second',
        )
  for (const kind of /** @type {const} */ (['put', 'update']))
    figures.add(
      `the other, ${KINDS[kind]}: ${AT_ONCE} at a time beside one`,
      of(`1 ${kind} ${AT_ONCE}`) / of(`1 ${kind} 1`),
      'times',
      '>=',
      LEAST_GAIN[kind],
    )
  figures.finish(flags.json)
} finally {
  main.kill('SIGTERM')
  if (main.exitCode === null) await once(main, 'exit')
  rmSync(folder, { recursive: true, force: true })
}
