// @ts-check
// npm run bench -- daemon: a daemon with 1,000 services of 10 listeners each. How long it takes to list them, to give the listeners of one to a process that
// comes to join, and to be replaced by the next daemon with all of them; and what memory they take. The slowest of several rounds counts. Members are a
// hundred to a process, and live.
// Options: --services 1000 --listeners 10 --rounds 5 --json FILE
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { join } from 'fd-broker'
import { OperatorClient } from 'fd-broker/operator'
import { Figures, Progress } from '../report.mjs'
import { signal } from '../unrelated.mjs'

const { values: flags } = parseArgs({
  options: {
    services: { type: 'string', default: '1000' },
    listeners: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
})
const services = Number(flags.services)
const listeners = Number(flags.listeners)
const rounds = Number(flags.rounds)
/** Members of one process. */
const TOGETHER = 100
const LIMIT_MS = 1_000
/** Members come back after the next daemon serves, all of them at once. */
const BACK_TIMES = 5
/** The bar for repeated work, and for the size after it. */
const MOST_GROWTH = 2
/** More than before are those of a moment: connections of operators and of members that come. */
const MOST_DESCRIPTORS = 16
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBERS = fileURLToPath(new URL('members.mjs', import.meta.url))
/** Two for a listener, and some for each service. Only root has more than the hard limit. */
const MORE = 'ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$@"'
const WITH_DESCRIPTORS = ['sh', '-c', MORE, 'sh', process.execPath]
const folder = mkdtempSync(joinPath(tmpdir(), 'fd-broker-daemon-'))
const control = joinPath(folder, 'daemon.sock')
const progress = new Progress()
/** @type {Set<number>} */
const pids = new Set()

/** Resolves when it has said this. @param {string[]} args @param {string} word @returns {Promise<void>} */
function start(args, word) {
  const [file = '', ...rest] = [...WITH_DESCRIPTORS, ...args]
  const child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
  pids.add(child.pid ?? 0)
  return new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', line => line.includes(word) && resolve())
    child.once('exit', code => reject(new Error(`${args.join(' ')} ended with ${code}`)))
  })
}

/** @param {() => unknown} work milliseconds that it takes */
async function timed(work) {
  const begun = performance.now()
  await work()
  return performance.now() - begun
}

/** @template T @param {(client: OperatorClient) => Promise<T>} act */
async function ask(act) {
  const client = await OperatorClient.connect(control)
  try {
    return await act(client)
  } finally {
    client.close()
  }
}

/** @returns {Promise<any>} */
const list = () => ask(client => client.status({ timeoutMs: 60_000 }))

/** Until a member serves each service, and has its listeners. */
async function whole() {
  for (;;) {
    const { pid, services: all } = await list()
    pids.add(pid)
    const there = all.filter(
      (/** @type {any} */ one) => one.pid && one.phase === 'idle' && one.listeners.length === listeners,
    )
    if (there.length === services) return pid
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Returns the daemon's memory in MiB, and its descriptors. @param {number} pid */
function sizeOf(pid) {
  const kib = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0)
  return { memory: kib / 1024, descriptors: readdirSync(`/proc/${pid}/fd`).length }
}

/** Joins like a successor, and gives up before it serves. @param {string} service */
async function claim(service) {
  const member = await join({ service, control, hosting: 'daemon', timeout: 60_000 })
  const names = Array.from({ length: listeners }, (_, n) => `web-${n}`)
  const got = await Promise.all(names.map(name => member.listen(name, 'tcp://127.0.0.1:0')))
  if (!got.every(({ adopted }) => adopted)) throw new Error(`${service} was not there`)
  return member
}

const figures = new Figures('daemon')
try {
  await start([CLI, 'serve', '--control', control, '--log-level', process.env.LEVEL ?? 'warn'], 'listens on')
  const empty = sizeOf((await list()).pid)
  const brought = []
  for (let from = 0; from < services; from += TOGETHER) {
    const count = Math.min(TOGETHER, services - from)
    brought.push(await timed(() => start([MEMBERS, control, `${from}`, `${count}`, `${listeners}`], 'serve')))
    const text = `${from + count} services, the last ${count} in ${brought.at(-1)?.toFixed(0)} ms`
    progress.show([text], text)
  }
  const full = sizeOf(await whole())
  /** @type {Record<'lists' | 'claims' | 'upgrades' | 'returns', number[]>} */
  const { lists, claims, upgrades, returns } = { lists: [], claims: [], upgrades: [], returns: [] }
  for (let round = 0; round < rounds; round++) {
    progress.show([`round ${round + 1}`], `round ${round + 1}`)
    lists.push(await timed(list))
    const service = `service-${Math.floor((services * round) / rounds)}`
    /** @type {import('fd-broker').Member | undefined} */
    let member
    claims.push(
      await timed(async () => {
        member = await claim(service)
      }),
    )
    await member?.close({ timeout: 0 })
    await whole()
    const begun = performance.now()
    await ask(client => client.upgrade({ service: 'fd-broker.daemon', timeoutMs: 60_000 }))
    upgrades.push(performance.now() - begun)
    await whole()
    returns.push(performance.now() - begun)
  }
  const after = sizeOf(await whole())
  const what = `${services} services of ${listeners} listeners`
  figures.add(`list of ${what}`, Math.max(...lists), 'ms', '<=', LIMIT_MS)
  figures.add('listeners of one, for who comes to join', Math.max(...claims), 'ms', '<=', LIMIT_MS)
  figures.add('the next daemon serves', Math.max(...upgrades), 'ms', '<=', LIMIT_MS)
  figures.add('all members are back there', Math.max(...returns), 'ms', '<=', BACK_TIMES * LIMIT_MS)
  figures.info(`the first ${TOGETHER} services come`, brought[0] ?? 0, 'ms')
  figures.add(
    `the last ${TOGETHER} services come`,
    (brought.at(-1) ?? Number.NaN) / (brought[0] ?? Number.NaN),
    'x the first',
    '<=',
    MOST_GROWTH,
  )
  figures.info('memory of the daemon without a service', empty.memory, 'MiB')
  figures.info('memory of the daemon', full.memory, 'MiB')
  figures.add(
    `memory of the daemon after ${rounds} upgrades`,
    after.memory / full.memory,
    'x before',
    '<=',
    MOST_GROWTH,
  )
  figures.info('descriptors of the daemon', full.descriptors, '')
  figures.add(
    `its descriptors after ${rounds} upgrades`,
    after.descriptors - full.descriptors,
    'more',
    '<=',
    MOST_DESCRIPTORS,
  )
} finally {
  for (const pid of pids) signal(pid, 'SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}
figures.finish(flags.json)
process.exit()
