// @ts-check
// npm run soak -- run: `fd-broker run` is told to upgrade once a second, and half of the new versions crash at their start, while
// clients connect 1,000 times a second; every fifth second it replaces itself too. No request may be lost. With --program: node, python, gunicorn, go.

import { spawn } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { freePort } from '../free-port.mjs'
import { plainEnv } from '../plain-env.mjs'
import { spawnLoad } from '../referee/remote.mjs'
import { LOSSES } from '../referee/verdicts.mjs'
import { Figures, Progress } from '../report.mjs'
import { until } from '../until.mjs'

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    rate: { type: 'string', default: '1000' },
    program: { type: 'string', default: 'node' },
    json: { type: 'string' },
  },
})
const seconds = Number(flags.seconds)
const root = fileURLToPath(new URL('../../', import.meta.url))
const programs = join(root, 'test/fixtures/supervised')
const built = join(root, 'build/programs')
/** The commands, and how each is known to be ready. The last two are what the tests have built. @type {Record<string, { ready: string, command: string[] }>} */
const PROGRAMS = {
  node: { ready: 'fd', command: [join(programs, 'server.mjs')] },
  python: { ready: 'delay:300ms', command: ['python3', join(programs, 'server.py')] },
  gunicorn: {
    ready: 'http:/r/1',
    command: ['python3', '-m', 'gunicorn', '--workers', '2', '--log-level', 'warning', 'app:app'],
  },
  go: { ready: 'delay:100ms', command: [join(built, 'server-go')] },
}
const program = PROGRAMS[flags.program]
if (program === undefined) throw new Error(`--program: one of ${Object.keys(PROGRAMS).join(', ')}`)

const REPLACED = 'the supervisor runs the installed release'
const folder = mkdtempSync(join(tmpdir(), 'fdb-soak-'))
const log = join(folder, 'log')
const port = await freePort()
const out = openSync(log, 'a')
const cli = join(root, 'dist/cli.cjs')
const control = join(folder, 'run.sock')
const listen = `web=tcp://127.0.0.1:${port}?backlog=4096`
const options = ['--listen', listen, '--ready', program.ready, '--control', control]
const child = spawn(process.execPath, [cli, 'run', ...options, '--', ...program.command], {
  stdio: ['ignore', out, out],
  env: {
    ...plainEnv(),
    FDB_CRASH: '1',
    FDB_SUPERVISED: JSON.stringify({ crashEven: true }),
    PYTHONPATH: `${join(built, 'python')}:${programs}`,
    PYTHONDONTWRITEBYTECODE: '1',
  },
})
const ended = new Promise(resolve => child.once('exit', resolve))
const progress = new Progress()
try {
  await until('the first version serves', 20_000, () => count('a version serves') > 0)
  const load = spawnLoad({
    target: `http://127.0.0.1:${port}`,
    rate: Number(flags.rate),
    freshShare: 1,
    slow: 0,
    streams: 0,
    writes: 0,
    idle: 0,
    every: 250,
  })
  try {
    await until('the load is answered', 20_000, () => (load.snapshot()?.answered ?? 0) > 100)
    for (let second = 1; second <= seconds; second++) {
      child.kill('SIGHUP')
      await new Promise(resolve => setTimeout(resolve, 1000))
      if (second % 5 === 0) await upgradeSelf()
      const line = `${second} of ${seconds} s, ${count('a version serves')} versions served, ${count('a version failed before it served')} crashed, ${load.snapshot()?.lost ?? 0} requests lost`
      progress.show([line], line)
    }
    const { total } = await load.stop()
    progress.clear()
    const figures = new Figures('run')
    figures.add('requests answered', total.answered, '', '>=', Number(flags.rate) * seconds * 0.9)
    for (const kind of LOSSES) figures.add(kind, total.counts[kind], 'requests', '=', 0)
    figures.add('versions that served', count('a version serves'), '', '>=', seconds / 3)
    figures.add('versions that crashed', count('a version failed before it served'), '', '>=', seconds / 3)
    figures.add('times it replaced itself', count(REPLACED), '', '>=', Math.floor(seconds / 5))
    const rss = memory()
    figures.add('memory of the supervisor, RSS', rss.rss, 'MiB', '<=', 90)
    figures.add('its own, without what processes of Node share', rss.own, 'MiB', '<=', 40)
    child.kill('SIGTERM')
    figures.add('exit code', Number(await ended), '', '=', 0)
    figures.finish(flags.json)
  } finally {
    load.kill()
  }
} catch (error) {
  process.stderr.write(readFileSync(log, 'utf8').slice(-4000))
  throw error
} finally {
  child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}

/** Upgrades the supervisor, which refuses while a version starts to serve. */
async function upgradeSelf() {
  const before = count(REPLACED)
  while (count(REPLACED) === before) {
    const tool = spawn(process.execPath, [cli, 'upgrade', '--self', '--control', control], {
      stdio: 'ignore',
      env: plainEnv(),
    })
    await new Promise(resolve => tool.once('exit', resolve))
  }
}

/** Lines of the log with this message. @param {string} message */
function count(message) {
  return readFileSync(log, 'utf8').split(`"msg":"${message}"`).length - 1
}

function memory() {
  const text = readFileSync(`/proc/${child.pid}/smaps_rollup`, 'utf8')
  const sum = (/** @type {RegExp} */ pattern) =>
    [...text.matchAll(pattern)].reduce((all, [, kiB]) => all + Number(kiB), 0) / 1024
  return { rss: sum(/^Rss:\s+(\d+) kB$/gm), own: sum(/^Private_\w+:\s+(\d+) kB$/gm) }
}
