import { FdbError } from '../../../../src/errors.js'
import { parseListenerSpec } from '../../../../src/listeners/spec.js'
import type { VersionSettings } from '../../../../src/run/settings.js'
import type { Restart } from '../../../../src/versions/version-machine.js'
import type { Code } from '../../globals.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { CONTROL, HOST, loggerOf, PORT } from '../program.js'
import { PROGRAM } from './programs.js'

export const SUPERVISOR_SCRIPT = '/run.js'
export const PID_FILE = '/run/shop/pid'
/** A service manager starts the supervisor again this long after its end. */
export const RESTART_MS = 300
/** The times of the settings. */
export const TIMES = {
  ready: 5_000,
  healthy: 500,
  proved: 3_000,
  stop: 4_000,
  restart: 200,
  check: 2_000,
} as const

export interface SupervisorsOptions {
  readonly restart: Restart
  readonly ready: 'http' | 'fd' | 'tcp' | 'delay'
}

const READINESS: Readonly<Record<SupervisorsOptions['ready'], VersionSettings['ready']>> = {
  http: { kind: 'http', url: '/health' },
  tcp: { kind: 'tcp', host: HOST, port: PORT },
  delay: { kind: 'delay', ms: 1_000 },
  fd: { kind: 'fd' },
}

/** A process of `fd-broker run`. */
export interface SupervisorProcess {
  readonly p: SimulatedProcess
  /** From when it may end its program: an operator's order is on its way. */
  mayEndFrom: number
  /** When it was first ordered to end, and for the second time; infinite if it was not. */
  stoppedAt: number
  stoppedAgainAt: number
  /** From when it may kill, because an operator's order to end gave less time; infinite if none did. */
  killsFrom: number
  /** The exit code that `run` returns; null before that. */
  code: number | null
}

/** The processes of `fd-broker run`, under a service manager that starts it again when none lives. */
export class Supervisors {
  readonly #code: Code
  readonly #world: World
  readonly #options: SupervisorsOptions
  readonly #all: SupervisorProcess[] = []
  /** Whether the file with the settings has mistakes. */
  isFileBad = false
  /** Whether the service manager starts the service again: not after an order to end it. */
  keepsAlive = true

  constructor(code: Code, world: World, options: SupervisorsOptions) {
    this.#code = code
    this.#world = world
    this.#options = options
    this.start()
    world.watchDeaths(p => {
      if (this.of(p) === undefined) return
      world.after(RESTART_MS, () => {
        if (this.keepsAlive && this.living === null) this.start()
      })
    })
  }

  get all(): readonly SupervisorProcess[] {
    return this.#all
  }

  get living(): SupervisorProcess | null {
    return this.#all.find(({ p }) => !p.dead) ?? null
  }

  of(p: SimulatedProcess): SupervisorProcess | undefined {
    return this.#all.find(each => each.p === p)
  }

  start(origin: Partial<Origin> = {}): SimulatedProcess {
    const world = this.#world
    const { restart } = this.#options
    this.isFileBad = false
    const supervisor: Omit<SupervisorProcess, 'p'> & { p?: SimulatedProcess } = {
      mayEndFrom: Number.POSITIVE_INFINITY,
      stoppedAt: Number.POSITIVE_INFINITY,
      stoppedAgainAt: Number.POSITIVE_INFINITY,
      killsFrom: Number.POSITIVE_INFINITY,
      code: null,
    }
    const settings = {
      name: 'shop',
      control: CONTROL,
      pidFile: PID_FILE,
      restart,
      restartDelay: TIMES.restart,
      upgradeSignal: 'SIGHUP',
    } as const
    const main = async (p: SimulatedProcess) => {
      try {
        const { code } = await this.#code.runSupervisor({
          settings,
          read: async () => this.#read(this.#versionSettings()),
          readSupervisorSettings: async () => this.#read(settings),
          logger: loggerOf(p),
          state: null,
        })
        supervisor.code = code
        world.exitWhenIdle(p, `ends with code ${code}`, code)
      } catch (error) {
        // Another one has the control path.
        if (FdbError.is(error) && error.code === 'ERR_FDB_CONTROL_TAKEN') {
          supervisor.code = 1
          world.exitWhenIdle(p, error.code, 1)
        } else world.exitByError(p, error)
      }
    }
    const p = world.start(`R${this.#all.length + 1}`, main, { script: SUPERVISOR_SCRIPT, ...origin })
    this.#all.push(Object.assign(supervisor, { p }))
    return p
  }

  #read<T>(settings: T): T {
    if (!this.isFileBad) return settings
    throw new FdbError('ERR_FDB_CONFIG', 'the file has mistakes')
  }

  #versionSettings(): VersionSettings {
    return {
      command: [PROGRAM],
      listen: [{ name: 'web', spec: parseListenerSpec(`tcp://${HOST}:${PORT}`) }],
      nonBlocking: true,
      ready: READINESS[this.#options.ready],
      asking: { interval: null, timeout: TIMES.check, passes: 1 },
      env: {},
      readyTimeout: TIMES.ready,
      healthyFor: TIMES.healthy,
      probation: TIMES.proved,
      stopSignal: 'SIGTERM',
      stopTimeout: TIMES.stop,
      survive: false,
    }
  }
}
