import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import type { StatusReport } from '../../src/operator/status-report.js'
import { hasEnded, signalPid } from './launch.js'
import { until } from './until.js'

/** How test/fixtures/app.mjs is to behave; see there. */
export interface AppConfig {
  service?: string
  control?: string | false
  hosting?: 'embedded' | 'daemon'
  timeout?: number
  /** Gives join() a signal that aborts then, milliseconds. */
  abortAfter?: number
  versions?: { min: number; max: number }
  upgrade?: Record<string, number>
  drain?: {
    timeout?: number
    tlsTimeout?: number
    move?: 'auto' | 'idle' | 'off'
    movesPerSecond?: number
    firstWave?: number
  }
  /** Entries that the first generation puts. */
  routes?: number
  schema?: { version: number; minReader?: number; codec?: string }
  listeners?: readonly ListenerConfig[]
  /** Listeners that members in Python and Go ask for when they serve. */
  lateListeners?: readonly ListenerConfig[]
  hold?: readonly ('file' | 'pipe' | 'memfd')[]
  /** Files of a TLS server. */
  key?: string
  cert?: string
  /** More of its options. */
  tls?: Record<string, unknown>
  /** Connections with TLS move. */
  moveTls?: boolean
  /** How often each WebSocket gets a tick, and each event stream an event; without it each 50 ms. */
  tickMs?: number
  /** Shares its ticket keys; each process then has a command line of its own. */
  tickets?: { name?: string; rotateEvery?: number }
  /** Sets its certificate once more, as a server does whose certificate was renewed. */
  renewed?: boolean
  /** Before ready(): wait until that file is there; wait so long; never come to it (asleep, or spinning); throw in a check; exit. */
  readyFile?: string
  readyDelay?: number
  hang?: 'sleep' | 'busy'
  check?: 'throw' | 'false'
  exitBeforeReady?: boolean
  /** The RLIMIT_NOFILE, from before join() on: Node itself opens far more files at once while it loads modules. */
  descriptors?: number
  /** The app has work for the serving process only, which ends when this file exists. */
  workFile?: string
  /** The app has a reload hook. */
  reloads?: boolean
  /** At SIGTERM it closes its member with this timeout (5 s), also before it serves. */
  endWithin?: number
  /** The process does not end with its member. */
  staysAlive?: boolean
  /** The process takes orders when its member has retired, and lives on. */
  keepsOrders?: boolean
  readyTimeout?: number
  /** Given to ready(); else the listeners of the servers `none` and `borrowed`. */
  unserved?: boolean | readonly string[]
  /** Milliseconds that it works behind its commit, without a turn for anything else. */
  warmUp?: number
  /** Unhealthy as long as this file exists. */
  sickFile?: string
  /**
   * A signal to itself in that phase, for example { 'member ready': 'SIGKILL', 'holder committing': 'SIGSTOP' }, or when its
   * application is told ('says serving'); or to its successor.
   */
  traps?: Record<string, 'SIGKILL' | 'SIGSTOP' | 'SIGKILL successor' | 'SIGSTOP successor'>
  /** A daemon takes over from the one that is there. */
  takeOver?: boolean
  /** join() in a worker thread, in a worker of node:cluster. */
  inside?: 'thread' | 'cluster'
  /** A file: the app has a cron job and a queue, and notes there what it does. */
  work?: string
  options?: Record<string, unknown>
}

export interface ListenerConfig {
  name: string
  spec: string
  server?:
    | 'http'
    | 'https'
    | 'h2c'
    | 'h2'
    | 'net'
    | 'ws'
    | 'socket.io'
    | 'streams'
    | 'lines'
    | 'udp'
    | 'dgram'
    | 'borrowed'
    | 'none'
}

/** One line that the app printed. */
export interface Said {
  readonly say: string
  /** Milliseconds since 1970, with fractions. */
  readonly at: number
  // biome-ignore lint/suspicious/noExplicitAny: whatever the fixture says
  readonly [fact: string]: any
}

/** A running app, seen from outside. */
export class App {
  readonly name: string
  readonly pid: number
  readonly config: AppConfig
  readonly #log: string
  readonly #commands: string

  constructor(facts: { name: string; pid: number; config: AppConfig; log: string; commands: string }) {
    this.name = facts.name
    this.pid = facts.pid
    this.config = facts.config
    this.#log = facts.log
    this.#commands = facts.commands
  }

  get output(): string {
    return readFileSync(this.#log, 'utf8')
  }

  get said(): Said[] {
    const text = this.output
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter(line => line.startsWith('{'))
      .map(line => JSON.parse(line) as Said)
  }

  /** Names of the member's events and other milestones, in order. */
  get story(): string[] {
    return this.said.filter(line => line.say !== 'log').map(line => line.say)
  }

  find(say: string): Said | undefined {
    return this.said.find(line => line.say === say)
  }

  /** The first line of that name. */
  says(say: string, ms = 15_000): Promise<Said> {
    return until(
      `${this.name} (pid ${this.pid}) says "${say}"`,
      () => this.find(say),
      ms,
      () => this.output,
    )
  }

  async serving(ms?: number): Promise<this> {
    await this.says('serving', ms)
    return this
  }

  /** The message of a process that could not join or was not taken. */
  failure(ms?: number): Promise<Said> {
    return this.says('failed', ms)
  }

  get ended(): boolean {
    return hasEnded(this.pid)
  }

  async end(ms = 15_000): Promise<void> {
    await until(
      `${this.name} (pid ${this.pid}) ends`,
      () => this.ended,
      ms,
      () => this.output,
    )
  }

  signal(name: NodeJS.Signals): void {
    signalPid(this.pid, name)
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL')
    await this.end(5_000)
  }

  /** A command over its private socket, whatever its role. */
  async order<T = unknown>(command: string, facts: object = {}): Promise<T> {
    await this.says('takes orders')
    const body = JSON.stringify(facts)
    return await new Promise((resolve, reject) => {
      const asked = request(
        { socketPath: this.#commands, path: `/${command}`, method: 'POST', agent: false, timeout: 30_000 },
        response => {
          let text = ''
          response.setEncoding('utf8').on('data', chunk => (text += chunk))
          response.on('end', () => {
            const answer = JSON.parse(text)
            if (response.statusCode === 200) resolve(answer)
            else reject(Object.assign(new Error(answer.message), answer))
          })
        },
      )
      asked.on('error', reject)
      asked.end(body)
    })
  }

  status(): Promise<StatusReport> {
    return this.order('status')
  }
}
