// @ts-check
// npm run soak -- chaos: an embedded application is upgraded under a load of reads and changes, and in each round (--rounds 300) something goes
// wrong: the young or the old version is killed, stopped, hung or throws, before or behind the commit; the disk is full; the control path, its lock
// or its folder is removed. No request may fail in a round whose fault no client should see, and every acknowledged change must be there, each
// increment once. A round in which the machine stalled the load generator, or kept an application from a processor, is named as such: a request that
// failed in it says nothing of the product, a lost change still does. --seed is printed; the same seed has the same faults in the same order. --only TEXT takes the faults whose names have it,
// --rate requests a second, --list names the faults. Without root there is no disk to fill.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { OperatorClient } from 'fd-broker/operator'
import { freePort } from '../free-port.mjs'
import { Figures, Progress } from '../report.mjs'
import { Clients, Round } from './chaos/clients.mjs'
import { FAULTS, START_MS } from './chaos/faults.mjs'
import { disturbed, Machine } from './chaos/machine.mjs'
import { Process } from './chaos/process.mjs'
import { randomFrom } from './chaos/random.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '300' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    rate: { type: 'string', default: '100' },
    only: { type: 'string', default: '' },
    list: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
})
/** One process serves, and no other is left, within this time behind a fault. */
const SETTLED_MS = 40_000
/** The share of all rounds; a machine that disturbs more is too busy for a soak. */
const MOST_DISTURBED = 0.1
const UPGRADE = { probation: 1_000, heartbeat: 100, silence: 1_800, ready: 8_000, commit: 4_000 }

class Chaos {
  /** @type {Process[]} */
  #all = []
  /** @type {Process} */
  serves
  #restarted = false
  /** Rounds whose state still exists. @type {Round[]} */
  #past = []
  failed = 0
  lost = 0
  twice = 0
  unsettled = 0
  asked = 0
  acknowledged = 0
  excused = 0
  slowestMs = 0
  /** Rounds. */
  disturbed = 0
  failedDisturbed = 0
  lateMs = 0
  waitedMs = 0

  /** @param {string} folder @param {number} port @param {boolean} mounted */
  constructor(folder, port, mounted) {
    this.folder = folder
    this.port = port
    this.mounted = mounted
    this.control = join(folder, 'control', 'chaos.sock')
    this.disk = join(folder, 'disk')
    this.log = join(folder, 'log')
    this.clients = new Clients(port, Number(flags.rate))
    this.between = randomFrom(Number(flags.seed))
    this.machine = new Machine(() => this.#all.filter(({ ended }) => !ended))
    this.serves = this.start()
  }

  start = (/** @type {object} */ more = {}) => {
    const process = new Process(
      {
        control: this.control,
        port: this.port,
        stateFile: join(this.disk, 'state'),
        upgrade: UPGRADE,
        itself: null,
        throwsBefore: false,
        ...more,
      },
      this.log,
    )
    this.#all.push(process)
    return process
  }

  /** @param {number} number @param {import('./chaos/faults.mjs').Fault} fault @param {(line: string) => void} say */
  async round(number, fault, say) {
    const round = new Round(number)
    const before = this.serves
    this.machine.take()
    // Where all have ended, what was durable is there, and nothing else.
    this.#restarted = fault.name === 'all are killed'
    this.clients.begin(round)
    // So that connections are open, and changes on their way, when the fault comes.
    await new Promise(resolve => setTimeout(resolve, this.between(100, 300)))
    const started = await fault.strike(this)
    const serving = await this.#settled([before, ...started])
    if (serving === null) {
      this.unsettled++
      say(`round ${number} (${fault.name}): not one process serves ${SETTLED_MS} ms behind it`)
      await this.#restart()
    } else this.serves = serving
    await this.clients.pause()
    await this.#account(round, fault, say)
  }

  /** The process that serves when all others have ended; null: it does not come to that. @param {readonly Process[]} processes */
  async #settled(processes) {
    const until = performance.now() + SETTLED_MS
    while (performance.now() < until) {
      const left = processes.filter(({ ended }) => !ended)
      if (left.length === 0) {
        this.#restarted = true
        const process = this.start()
        if ((await process.says('ready', START_MS)) !== null) return process
      }
      const status = left.length === 1 ? await this.#status() : null
      if (status?.pid === left[0]?.pid && status?.role === 'serving' && status?.phase === 'idle')
        return left[0] ?? null
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    return null
  }

  /** @returns {Promise<Record<string, any> | null>} */
  async #status() {
    try {
      const client = await OperatorClient.connect(this.control)
      try {
        return await client.status()
      } finally {
        client.close()
      }
    } catch {
      return null
    }
  }

  async #restart() {
    this.#restarted = true
    this.kill()
    for (const process of this.#all) await process.end(START_MS)
    this.serves = this.start()
    await this.serves.says('ready', START_MS)
  }

  /** @param {Round} round @param {import('./chaos/faults.mjs').Fault} fault @param {(line: string) => void} say */
  async #account(round, fault, say) {
    const bad = round.failures.filter(
      ({ kind }) => fault.seen === 'none' || (fault.seen === 'durable' && kind !== 'durable'),
    )
    const machine = this.machine.take()
    this.lateMs = Math.max(this.lateMs, machine.lateMs)
    this.waitedMs = Math.max(this.waitedMs, machine.waitedMs)
    if (disturbed(machine)) {
      this.disturbed++
      this.failedDisturbed += bad.length
    } else this.failed += bad.length
    this.asked += round.asked
    this.excused += round.failures.length - bad.length
    if (fault.seen === 'none') this.slowestMs = Math.max(this.slowestMs, round.slowestMs)
    this.acknowledged += round.memory.size + round.durable.size + round.counted
    if (this.#restarted) for (const { memory } of this.#past) memory.clear()
    const lost = await this.#lost(round, this.#restarted, say)
    if (bad.length > 0 || lost > 0) {
      say(
        `${titleOf(round, fault)}: failed ${bad.length}, lost ${lost}${disturbed(machine) ? ', disturbed by the machine' : ''} ` +
          `(load generator late by ${machine.lateMs.toFixed()} ms, an application waited ${machine.waitedMs.toFixed()} ms of 5 s for a processor); ${reasonsOf(bad).join('; ')}`,
      )
      writeFileSync(join(this.folder, `round-${round.number}`), `${machine.looks.join('\n')}\n`)
    }
    if (this.#restarted) round.memory.clear()
    this.#past.push(round)
  }

  /** @param {Round} round @param {boolean} restarted @param {(line: string) => void} say */
  async #lost(round, restarted, say) {
    const dump = await this.serves.dump(round.prefix, START_MS)
    if (dump === null) {
      say(`round ${round.number}: the process that serves does not say what it has`)
      this.unsettled++
      return 0
    }
    const there = new Set(dump.keys)
    const wanted = [...round.durable, ...(restarted ? [] : round.memory)]
    const gone = wanted.filter(key => !there.has(key))
    const count = dump.counts[round.counter] ?? 0
    let lost = gone.length
    if (!restarted && count < round.counted) lost += round.counted - count
    if (count > round.counted + round.unknown.count) {
      this.twice += count - round.counted - round.unknown.count
      say(
        `round ${round.number}: ${count} increments made of ${round.counted} acknowledged, ${round.unknown.count} unknown`,
      )
    }
    if (gone.length > 0) say(`round ${round.number}: gone are ${gone.slice(0, 10).join(' ')}`)
    this.lost += lost
    return lost
  }

  /** Checks that the state has, in the end, the acknowledged changes of all rounds. @param {(line: string) => void} say */
  async last(say) {
    const dump = await this.serves.dump('', START_MS)
    const there = new Set(dump?.keys)
    let gone = 0
    for (const { memory, durable } of this.#past)
      for (const key of [...memory, ...durable]) if (!there.has(key)) gone++
    if (gone > 0) say(`in the end ${gone} changes of earlier rounds are gone`)
    this.lost += gone
  }

  kill() {
    for (const process of this.#all) process.signal('SIGKILL')
  }
}

/** @param {Round} round @param {import('./chaos/faults.mjs').Fault} fault */
function titleOf({ number }, { name }) {
  return `round ${number} (${name})`
}

/** @param {readonly import('./chaos/clients.mjs').Failure[]} failures */
function reasonsOf(failures) {
  /** @type {Map<string, { count: number, from: number, slowest: number }>} */
  const reasons = new Map()
  for (const { kind, why, afterMs, tookMs } of failures) {
    const key = `${kind}: ${why.replace(/\d{3,}/g, 'N')}`
    const known = reasons.get(key) ?? { count: 0, from: afterMs, slowest: 0 }
    reasons.set(key, {
      count: known.count + 1,
      from: Math.min(known.from, afterMs),
      slowest: Math.max(known.slowest, tookMs),
    })
  }
  return [...reasons].map(
    ([why, { count, from, slowest }]) =>
      `${count} × ${why} (from ${Math.round(from)} ms on, up to ${Math.round(slowest)} ms)`,
  )
}

/** A file system of its own, so that it can be full; without root an ordinary folder. @param {string} folder */
function mount(folder) {
  mkdirSync(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

async function main() {
  if (flags.list) {
    for (const { name, seen } of FAULTS) console.log(`${name} (seen: ${seen})`)
    return
  }
  const rounds = Number(flags.rounds)
  const progress = new Progress()
  const figures = new Figures('chaos')
  const folder = mkdtempSync(join(tmpdir(), 'fdb-chaos-'))
  const mounted = mount(join(folder, 'disk'))
  const faults = FAULTS.filter(
    ({ name }) => name.includes(flags.only) && (mounted || name !== 'the disk is full'),
  )
  progress.say(
    `seed ${flags.seed}, ${faults.length} faults${mounted ? '' : ' (no root: the disk is never full)'}`,
  )
  const chaos = new Chaos(folder, await freePort(), mounted)
  const release = () => {
    chaos.kill()
    if (mounted) execFileSync('umount', ['-l', chaos.disk])
  }
  const stop = () => {
    release()
    process.exit(1)
  }
  process.once('SIGTERM', stop).once('SIGINT', stop)
  let done = 0
  let keep = false
  try {
    if ((await chaos.serves.says('ready', START_MS)) === null)
      throw new Error(`the application does not start: ${readFileSync(chaos.log, 'utf8').slice(-2_000)}`)
    /** Each once, then each once more in another order. @type {import('./chaos/faults.mjs').Fault[]} */
    let deck = []
    for (let number = 1; number <= rounds; number++) {
      if (deck.length === 0) deck = [...faults]
      const [fault] = deck.splice(chaos.between(0, deck.length - 1), 1)
      if (fault === undefined) break
      await chaos.round(number, fault, line => progress.say(line))
      done++
      const line = `round ${number} of ${rounds}: ${chaos.failed} failed, ${chaos.lost} lost, ${chaos.unsettled} not settled (${fault.name})`
      progress.show([line], line)
    }
    await chaos.last(line => progress.say(line))
    progress.clear()
    figures.add('rounds', done, '', '=', rounds)
    figures.info('requests', chaos.asked, '')
    figures.info('failed in rounds whose fault clients see', chaos.excused, 'requests')
    figures.info('slowest in a round whose fault they do not see', chaos.slowestMs, 'ms')
    figures.add('disturbed by the machine', chaos.disturbed, 'rounds', '<=', Math.ceil(done * MOST_DISTURBED))
    figures.info('failed in rounds that the machine disturbed', chaos.failedDisturbed, 'requests')
    figures.info('load generator late by up to', chaos.lateMs, 'ms')
    figures.info('an application waited for a processor up to', chaos.waitedMs, 'ms of 5 s')
    figures.add('acknowledged', chaos.acknowledged, 'changes', '>', rounds)
    figures.add('failed in rounds whose fault no client should see', chaos.failed, 'requests', '=', 0)
    figures.add('acknowledged and lost', chaos.lost, 'changes', '=', 0)
    figures.add('made more than once', chaos.twice, 'increments', '=', 0)
    figures.add('not one serves behind the fault', chaos.unsettled, 'rounds', '=', 0)
    figures.finish(flags.json)
    keep = process.exitCode === 1
  } finally {
    chaos.machine.end()
    chaos.clients.end()
    release()
    if (keep && existsSync(chaos.log)) progress.say(`what the application said: ${chaos.log}`)
    else rmSync(folder, { recursive: true, force: true, maxRetries: 10 })
  }
}

await main()
