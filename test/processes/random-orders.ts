import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK, STOP, stopBody } from '../../src/operator/service-commands.js'
import type { ServiceStatus } from '../../src/operator/status-report.js'
import { RawClient } from '../connections-support/http-client.js'
import type { App } from './app.js'
import { startDaemon } from './daemon.js'
import {
  bothOf,
  type Census,
  differences,
  isListened,
  leftIn,
  memoryFilesOf,
  settledCensus,
  textOf,
} from './descriptor-census.js'
import { hasEnded, signalPid } from './launch.js'
import { randomFrom } from './random.js'
import { freePort, Scene } from './scene.js'
import { pause, until } from './until.js'

const PROGRAM = fileURLToPath(new URL('../fixtures/ordered-member.mjs', import.meta.url))
const SERVICE = 'ordered'
const UPGRADE = { probation: 300, heartbeat: 25, silence: 600, freeze: 500, prepare: 1_500, commit: 1_500 }
const CLIENTS = 3
/** The longest pause between two acts. */
const PAUSE_MS = 150
const STOP_MS = [30, 200, 900] as const
/** A client hears that its connection was cut within this time. */
const HEARD_MS = 1_000
/** A process that still serves so long after an order to end has not got it. */
const KEEPS_MS = 6_000
const LOOK_MS = 30
/** So long after a fault each version that is there can serve. */
const CALM_MS = 1_500
/** Descriptors of processes that have ended are closed within this time. */
const LEFT_MS = 4_000
/** The memory files of a process that are no segments of its state: the segment of a rollback, and names of descriptors. */
const MORE_MEMORY_FILES = 2
/** In this time after a fault a change may be refused. */
const TROUBLE_MS = 3_000

/** The acts, and the share of each. */
const SHARES = {
  ...{ upgrade: 2, start: 1, rollback: 1, 'stop service': 1, close: 1, dispose: 1 },
  ...{ pause: 2, kill: 2, listen: 1, unlisten: 1, put: 2, 'put durable': 3 },
} as const
type Act = keyof typeof SHARES
const ACTS = Object.entries(SHARES).flatMap(([act, share]) => Array.from({ length: share }, () => act as Act))

/** A time in which requests may fail, and why. */
interface Excuse {
  readonly why: string
  readonly from: number
  to: number
  /** Only connections from before that may be cut; no client may be refused. */
  readonly cutsOnly: boolean
}

interface Failure {
  readonly at: number
  /** When its connection was made. */
  readonly connectedAt: number
  readonly sentAt: number
  readonly how: string
}

/** Random orders and faults for a service whose program is `ordered-member.mjs`, and clients whose requests must all be answered. */
export class RandomOrders {
  readonly story: string[] = []
  readonly #scene = Scene.open()
  readonly #hosting: 'embedded' | 'daemon'
  readonly #below: (n: number) => number
  readonly #excuses: Excuse[] = []
  readonly #failures: Failure[] = []
  readonly #durable = new Set<string>()
  readonly #work: Promise<unknown>[] = []
  readonly #began = performance.now()
  readonly #wrong: string[] = []
  /** When a process was last killed or stopped, or the service ended. */
  #troubleAt = Number.NEGATIVE_INFINITY
  #port = 0
  #second = 0
  #daemon: App | null = null
  #clientsRun = true
  #keys = 0
  #acts = 0
  /** The descriptors of a daemon without a service. */
  #fresh: Census = new Map()
  readonly #children: ChildProcess[] = []
  /** The processes that were killed here. */
  readonly #killed = new Set<number>()

  constructor(seed: number, hosting: 'embedded' | 'daemon') {
    this.#below = randomFrom(seed)
    this.#hosting = hosting
  }

  /** Resolves with what is wrong. */
  async run(acts: number): Promise<string[]> {
    this.#port = await freePort()
    this.#second = await freePort()
    if (this.#hosting === 'daemon') {
      const { pid } = await this.#startDaemon()
      await settledCensus(pid)
      this.#fresh = bothOf(pid)
    }
    await this.#serve()
    const clients = Array.from({ length: CLIENTS }, () => this.#client())
    for (let n = 0; n < acts; n++) {
      const act = ACTS[this.#below(ACTS.length)]!
      await this.#perform(act)
      await pause(this.#below(PAUSE_MS))
      await this.#maintain()
    }
    await this.#calm()
    this.#clientsRun = false
    await Promise.all(clients)
    this.#judge()
    await this.#census()
    return this.#wrong
  }

  get #now(): number {
    return performance.now() - this.#began
  }

  #note(text: string): void {
    this.story.push(`${this.#now.toFixed(0).padStart(6)} ${text}`)
  }

  get output(): string {
    return readFileSync(this.#scene.file('log'), 'utf8')
  }

  /** The pids of all processes of the program that have joined and live. */
  get #living(): number[] {
    const joined = [...this.output.matchAll(/^(\d+) joined$/gm)].map(([, pid]) => Number(pid))
    return joined.filter(pid => !hasEnded(pid))
  }

  async #startDaemon(): Promise<App> {
    this.#daemon = await startDaemon(this.#scene, { upgrade: UPGRADE })
    return this.#daemon
  }

  #launch(): ChildProcess {
    const log = openSync(this.#scene.file('log'), 'a')
    const config = {
      control: this.#scene.control,
      hosting: this.#hosting,
      port: this.#port,
      second: this.#second,
      stateFile: this.#scene.file('state'),
      upgrade: UPGRADE,
    }
    const env = {
      ...process.env,
      ...this.#scene.marked,
      NODE_OPTIONS: '',
      FDB_ORDERED: JSON.stringify(config),
    }
    const child = spawn(process.execPath, [PROGRAM], { env, stdio: ['ignore', log, log], detached: true })
    closeSync(log)
    this.#children.push(child)
    return child
  }

  /** Whether a process was started that has neither joined nor ended. */
  get #isStarting(): boolean {
    const { output } = this
    return this.#children.some(({ pid }) => !hasEnded(pid!) && !output.includes(`${pid} joined\n`))
  }

  /** Starts a version, again until one serves. */
  async #serve(): Promise<void> {
    const isServed = async () => (await this.#status()) !== null
    let child = this.#launch()
    await until(
      'a version serves',
      async () => {
        if (await isServed()) return true
        if (child.exitCode !== null || child.signalCode !== null) child = this.#launch()
        return false
      },
      20_000,
      () => `${this.story.join('\n')}\n${this.output}`,
    )
  }

  /** The status of the version that serves; null if none does. */
  async #status(): Promise<{ readonly pid: number; readonly phase: string } | null> {
    const found = await this.#report().catch(() => undefined)
    return found?.pid == null ? null : { pid: found.pid, phase: found.phase ?? '' }
  }

  /** Returns the status of the service; undefined if the daemon has no such service. */
  async #report(): Promise<ServiceStatus | undefined> {
    using client = await OperatorClient.connect(this.#scene.control, { timeout: 500 })
    const text = JSON.parse(JSON.stringify(await client.status())) as { services?: ServiceStatus[] }
    if (this.#daemon === null) return text as ServiceStatus
    return text.services?.find(({ service }) => service === SERVICE)
  }

  #excuse(why: string, cutsOnly = false): Excuse {
    this.#troubleAt = performance.now()
    const excuse = { why, from: this.#now, to: Number.POSITIVE_INFINITY, cutsOnly }
    this.#excuses.push(excuse)
    return excuse
  }

  async #perform(act: Act): Promise<void> {
    this.#note(act)
    this.#acts++
    switch (act) {
      case 'upgrade':
        this.#operator(client => client.upgrade({ service: this.#named, timeout: 8_000 }))
        return
      case 'rollback':
        this.#operator(client => client.command(ROLLBACK, '', { service: this.#named }))
        return
      case 'start':
        if (this.#living.length < 4) this.#launch()
        return
      case 'stop service':
      case 'close':
      case 'dispose':
        await this.#end(act)
        return
      case 'pause':
        this.#pause()
        return
      case 'kill':
        await this.#kill()
        return
      case 'listen':
        this.#work.push(this.#listen())
        return
      case 'unlisten':
        this.#work.push(this.#ask('POST', '/unlisten').catch(() => {}))
        return
      default:
        this.#work.push(this.#put(act === 'put durable'))
    }
  }

  get #named(): string {
    return this.#hosting === 'daemon' ? SERVICE : ''
  }

  #operator(order: (client: OperatorClient) => Promise<unknown>): void {
    const work = async () => {
      using client = await OperatorClient.connect(this.#scene.control, { timeout: 2_000 })
      await order(client)
    }
    this.#work.push(
      work().then(
        () => this.#note('an order is done'),
        error => this.#note(`an order is refused: ${error.code} ${error.message}`),
      ),
    )
  }

  /** Another version that is there serves then, and no request may fail; otherwise the service ends, and requests may fail until a new version serves. */
  async #end(act: 'stop service' | 'close' | 'dispose'): Promise<void> {
    const before = await this.#status()
    const isCalm = performance.now() - this.#troubleAt > CALM_MS
    const present = this.#living
    const excuse = this.#excuse(act)
    if (act === 'stop service')
      this.#operator(client =>
        client.command(STOP, stopBody({ timeoutMs: null, drop: false }), { service: this.#named }),
      )
    else this.#work.push(this.#ask('POST', `/${act}`).catch(() => {}))
    // A daemon that was started again does not know at once which version serves; an order to stop is for all versions.
    const leaving = before === null || act === 'stop service' ? present : [before.pid]
    const serving = await this.#untilServedAgain(leaving, excuse)
    if (act === 'stop service' || before === null || !isCalm || !present.includes(serving)) return
    this.#note(`${serving} serves, and was there`)
    this.#excuses.splice(this.#excuses.indexOf(excuse), 1)
  }

  /** Resolves with the pid when another process serves, which ends the excuse, or one of these after {@link KEEPS_MS}. Starts one if none lives. */
  async #untilServedAgain(leaving: readonly number[], excuse: Excuse): Promise<number> {
    const until = performance.now() + KEEPS_MS
    for (;;) {
      await pause(LOOK_MS)
      const status = await this.#status()
      const isOther = status !== null && (!leaving.includes(status.pid) || performance.now() > until)
      if (isOther && status.phase !== 'committing') {
        excuse.to = this.#now + HEARD_MS
        return status.pid
      }
      if (status === null && this.#living.length === 0) await this.#serve()
    }
  }

  #pause(): void {
    const living = this.#living
    if (living.length === 0) return
    const pid = living[this.#below(living.length)]!
    const ms = STOP_MS[this.#below(STOP_MS.length)]!
    this.#note(`${pid} is stopped for ${ms} ms`)
    this.#troubleAt = performance.now()
    signalPid(pid, 'SIGSTOP')
    this.#work.push(
      pause(ms).then(() => {
        signalPid(pid, 'SIGCONT')
        this.#troubleAt = performance.now()
      }),
    )
  }

  async #kill(): Promise<void> {
    if (this.#daemon !== null && this.#below(3) === 0) {
      this.#note('the daemon is killed')
      this.#troubleAt = performance.now()
      await this.#daemon.kill()
      await this.#startDaemon()
      return
    }
    const living = this.#living
    if (living.length === 0) return
    const pid = living[this.#below(living.length)]!
    const status = await this.#status()
    this.#note(`${pid} is killed; ${status?.pid} serves, ${status?.phase}, of ${living}`)
    // With a daemon to which the process is back, clients wait. Otherwise another process that has the listener serves again only in a probation.
    const isAlone = status === null || (this.#hosting === 'embedded' && status.pid === pid)
    const excuse = this.#excuse(`kill of ${pid}`, !isAlone)
    this.#killed.add(pid)
    signalPid(pid, 'SIGKILL')
    await until('it has ended', () => hasEnded(pid))
    if (isAlone) await this.#untilServedAgain([pid], excuse)
    else excuse.to = this.#now + HEARD_MS
  }

  /** A service manager starts the program again. */
  async #maintain(): Promise<void> {
    if (this.#living.length > 0) return
    const excuse = this.#excuse('no version lives', this.#hosting === 'daemon')
    await this.#serve()
    excuse.to = this.#now + HEARD_MS
  }

  /** The program opens its second listener, and answers there, unless something else is ordered meanwhile. */
  async #listen(): Promise<void> {
    const acts = this.#acts
    const answer = await this.#ask('POST', '/listen').catch(error => `${error}`)
    if (answer !== 'done') return
    const failed = await RawClient.to(this.#second)
      .then(client => client.ask('/pid').finally(() => client.socket.destroy()))
      .then(() => null, String)
    if (failed !== null && acts === this.#acts) this.#wrong.push(`at the second listener: ${failed}`)
  }

  async #put(isDurable: boolean): Promise<void> {
    // No key is the begin of another one: the state file must have it.
    const key = `key-${++this.#keys}-`
    const answer = await this.#ask('PUT', `/${key}${isDurable ? '?durable' : ''}`).catch(error => `${error}`)
    if (answer === 'put' && isDurable) {
      this.#durable.add(key)
      if (!this.#isWritten(key))
        this.#wrong.push(`the durable change of ${key} was acknowledged, and the state file lacks it`)
    }
    if (/^ERR_/.test(answer)) {
      this.#note(`${key} was refused: ${answer}`)
      if (performance.now() - this.#troubleAt > TROUBLE_MS)
        this.#wrong.push(`a change was refused: ${answer}`)
    }
  }

  #isWritten(key: string): boolean {
    const file = this.#scene.file('state')
    return existsSync(file) && readFileSync(file, 'latin1').includes(key)
  }

  /** One request on a connection of its own. */
  async #ask(method: string, path: string): Promise<string> {
    const connectedAt = this.#now
    try {
      const client = await RawClient.to(this.#port)
      try {
        client.send(`${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
        return (await client.answer()).body
      } finally {
        client.socket.destroy()
      }
    } catch (error) {
      this.#failures.push({
        at: this.#now,
        connectedAt,
        sentAt: connectedAt,
        how: `${method} ${path}: ${error}`,
      })
      throw error
    }
  }

  /** Asks again and again over one connection, as long as that lasts. */
  async #client(): Promise<void> {
    while (this.#clientsRun) {
      const connectedAt = this.#now
      let sentAt = connectedAt
      try {
        const client = await RawClient.to(this.#port)
        try {
          while (this.#clientsRun && client.end === null) {
            sentAt = this.#now
            const { head } = await client.send('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n').answer()
            if (!head.startsWith('HTTP/1.1 200')) throw new Error(head)
            if (/^connection: close$/im.test(head)) break
            await pause(3 + this.#below(30))
          }
        } finally {
          client.socket.destroy()
        }
      } catch (error) {
        this.#failures.push({ at: this.#now, connectedAt, sentAt, how: `${error}` })
        await pause(20)
      }
    }
  }

  /** All trouble is over: one process is left, and serves. */
  async #calm(): Promise<void> {
    for (const pid of this.#living) signalPid(pid, 'SIGCONT')
    // A daemon lets clients wait until a version serves.
    let isDone = false
    void Promise.all(this.#work).then(() => {
      isDone = true
    })
    await until(
      'every order and request has its answer',
      async () => {
        await this.#maintain()
        return isDone
      },
      20_000,
      () => `${this.story.join('\n')}\n${this.output}`,
    )
    await until(
      'one version is left, and serves',
      async () => {
        const status = await this.#status()
        await this.#maintain()
        const isOne = status?.phase === 'idle' && this.#living.join() === `${status.pid}`
        return isOne && !this.#isStarting
      },
      20_000,
      () => `${this.#living}\n${this.story.join('\n')}\n${this.output}`,
    )
    const all = new Set(JSON.parse(await this.#ask('GET', '/all')) as string[])
    const lost = [...this.#durable].filter(key => !all.has(key))
    if (lost.length > 0) this.#wrong.push(`durable changes were lost: ${lost}`)
  }

  #judge(): void {
    for (const { at, connectedAt, sentAt, how } of this.#failures) {
      const isExcused = this.#excuses.some(
        ({ cutsOnly, from, to }) =>
          sentAt < to && at >= from && (!cutsOnly || (connectedAt < to && !/REFUSED/.test(how))),
      )
      if (!isExcused) this.#wrong.push(`${how}, sent at ${sentAt.toFixed(0)}, at ${at.toFixed(0)}`)
    }
    const outputs = [this.output, this.#daemon?.output ?? '']
    if (outputs.some(text => /^Node\.js v\d/m.test(text)))
      this.#wrong.push('a process has ended by an exception')
    for (const { pid, exitCode, signalCode } of this.#children) {
      const isKilled = signalCode === 'SIGKILL' && this.#killed.has(pid!)
      // Code 3: the library has refused the program.
      if (signalCode === null ? ![null, 0, 3].includes(exitCode) : !isKilled)
        this.#wrong.push(`process ${pid} has ended: ${signalCode ?? `code ${exitCode}`}`)
    }
  }

  /** Nothing is left of processes that have ended, of failures, and at last of the service. */
  async #census(): Promise<void> {
    // The state file gets its name with its first record.
    await this.#put(true)
    for (const path of ['/listen', '/unlisten'])
      await this.#ask('POST', path).catch(error => this.#wrong.push(`${error}`))
    await this.#failUpgrade()
    const [pid] = this.#living
    if (pid === undefined) return
    await this.#eventually(
      'the second listener was closed, and its port is listened on',
      () => !isListened(this.#second),
    )
    await this.#eventually(
      () => `process ${pid} has ${leftIn(pid)}`,
      () => leftIn(pid).length === 0,
    )
    await this.#judgeStatus(pid)
    await this.#compareWithNext(pid)
    await this.#stop()
    await this.#eventually(
      'the service was stopped, and its port is listened on',
      () => !isListened(this.#port),
    )
    if (this.#daemon === null) return
    const { pid: daemon } = this.#daemon
    const left = () => differences(this.#fresh, bothOf(daemon))
    await this.#eventually(
      () => `the service was stopped, and its daemon has ${left()}`,
      () => left().length === 0,
    )
  }

  async #failUpgrade(): Promise<void> {
    using client = await OperatorClient.connect(this.#scene.control)
    const program = ['/bin/false']
    const code = await client.upgrade({ service: this.#named, argv: program }).then(
      () => 'none',
      ({ code }) => code,
    )
    if (code !== 'ERR_FDB_SUCCESSOR_EXITED')
      this.#wrong.push(`the upgrade to ${program} has failed with ${code}`)
  }

  /** Stops the service as `fd-broker stop --drop` does: a daemon keeps listeners and state of the process that has ended until a second order. */
  async #stop(): Promise<void> {
    const order = async () => {
      using client = await OperatorClient.connect(this.#scene.control)
      await client.command(STOP, stopBody({ timeoutMs: null, drop: true }), { service: this.#named })
    }
    await order()
    await this.#eventually(
      () => `the service was stopped, and ${this.#living} live`,
      () => this.#living.length === 0,
    )
    if (this.#daemon === null) return
    await until('the daemon knows that no process serves', async () => (await this.#report())?.pid === null)
    await order()
  }

  /** Waits for something that holds soon after all trouble. Otherwise `what` is wrong. */
  async #eventually(what: string | (() => string), holds: () => boolean | Promise<boolean>): Promise<void> {
    await until('it holds', holds, LEFT_MS).catch(() =>
      this.#wrong.push(typeof what === 'string' ? what : what()),
    )
  }

  /** The status says what is. */
  async #judgeStatus(pid: number): Promise<void> {
    const answers = Number(await this.#ask('GET', '/pid'))
    const entries = (JSON.parse(await this.#ask('GET', '/all')) as string[]).length
    const is = JSON.stringify({
      ...{ pid: answers, role: 'serving', phase: 'idle' },
      listeners: [{ name: 'web', address: `tcp://127.0.0.1:${this.#port}`, accepting: true }],
      ...{ draining: [], blockedBy: [], unfit: null, entries, file: true },
    })
    if (answers !== pid) this.#wrong.push(`${pid} lives, and ${answers} answers`)
    let said = ''
    await this.#eventually(
      () => `the status says ${said}, and there is ${is}`,
      async () => {
        said = saidBy(await this.#report())
        return said === is
      },
    )
  }

  /** A version that has just taken over has the same descriptors as the one that went through all. */
  async #compareWithNext(pid: number): Promise<void> {
    const before = await settledCensus(pid)
    await this.#judgeMemory(pid)
    this.#operator(client => client.upgrade({ service: this.#named, timeout: 8_000 }))
    const next = await until('the last upgrade is done', async () => {
      const status = await this.#status()
      const isDone = status?.phase === 'idle' && status.pid !== pid && this.#living.join() === `${status.pid}`
      return isDone ? status.pid : null
    })
    const fresh = await settledCensus(next)
    await this.#judgeMemory(next)
    const differing = differences(fresh, before)
    this.#note(`a fresh process has ${textOf(fresh)}`)
    if (differing.length > 0) this.#wrong.push(`process ${pid} has ${differing.join(', ')} as a fresh one`)
  }

  /** A process has each segment of the state twice, for its log and for the next version, and perhaps the one of a rollback and the names of descriptors. */
  async #judgeMemory(pid: number): Promise<void> {
    const { segments = 0 } = (await this.#report())?.state ?? {}
    const files = memoryFilesOf(pid)
    if (files.size > segments + MORE_MEMORY_FILES || [...files.values()].some(count => count > 2))
      this.#wrong.push(`process ${pid} has ${textOf(files)}, for ${segments} segments`)
  }
}

function saidBy(report: ServiceStatus | undefined): string {
  const listeners = report?.listeners?.map(({ name, address, accepting }) => ({ name, address, accepting }))
  return JSON.stringify({
    ...{ pid: report?.pid, role: report?.role, phase: report?.phase, listeners },
    ...{ draining: report?.draining, blockedBy: report?.blockedBy, unfit: report?.unfit },
    ...{ entries: report?.state?.entries, file: report?.state?.file?.ok },
  })
}
