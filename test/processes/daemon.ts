import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { App, type AppConfig } from './app.js'
import { launchUnrelated, signalPid } from './launch.js'
import { ask } from './operator.js'
import type { Scene, StartOptions } from './scene.js'
import { pause, until } from './until.js'

const DAEMON = fileURLToPath(new URL('../fixtures/daemon.mjs', import.meta.url))
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

let count = 0

/** Starts a daemon on the scene's control path; resolves when it has been launched, no more. */
export async function launchDaemon(
  scene: Scene,
  config: AppConfig = {},
  { wrap = [], env = {} }: StartOptions = {},
): Promise<App> {
  return await launch(scene, config, [...wrap, process.execPath, DAEMON], env)
}

/** As {@link launchDaemon}, and waits until it listens. */
export async function startDaemon(scene: Scene, config?: AppConfig, options?: StartOptions): Promise<App> {
  const daemon = await launchDaemon(scene, config, options)
  await daemon.says('listening')
  return daemon
}

/** The daemon as users start it: `fd-broker serve`, with its default limits. */
export async function serveByCommand(scene: Scene, options: StartOptions = {}): Promise<App> {
  const { wrap = [], env = {} } = options
  const command = [...wrap, process.execPath, CLI, 'serve', '--control', scene.control]
  const daemon = await launch(scene, {}, command, env)
  await until(
    'fd-broker serve listens',
    () => daemon.output.includes('listens on'),
    10_000,
    () => daemon.output,
  )
  return daemon
}

async function launch(
  scene: Scene,
  config: AppConfig,
  command: readonly string[],
  extra: NodeJS.ProcessEnv,
): Promise<App> {
  const name = `daemon${++count}`
  const log = join(scene.folder, `${name}.log`)
  const whole: AppConfig = { control: scene.control, ...config }
  const env = {
    ...process.env,
    ...scene.marked,
    NODE_OPTIONS: '',
    FDB_APP: JSON.stringify({ ...whole, name }),
    ...extra,
  }
  const pid = await launchUnrelated(command, { log, env })
  onTestFinished(() => signalPid(pid, 'SIGKILL'))
  return new App({ name, pid, config: whole, log, commands: '' })
}

/** A daemon's report of one of its services. */
export interface ServiceStatus extends StatusReport {
  readonly segments: number
  readonly logBytes: number
}

export interface DaemonStatus {
  readonly hosting: 'daemon'
  readonly pid: number
  readonly generation: number
  readonly services: readonly ServiceStatus[]
}

/** As `fd-broker upgrade` does. */
export function requestUpgrade(control: string, order: { argv?: string[]; service?: string } = {}) {
  const steps: string[] = []
  return ask(
    control,
    { upgradeRequest: { argv: [], timeoutMs: 20_000, ...order } },
    ({ progress, result }) => {
      if (progress) steps.push(progress.phase ?? '')
      return result ? { ...result, ok: result.ok ?? false, steps } : undefined
    },
    25_000,
  )
}

export async function daemonStatus(control: string): Promise<DaemonStatus> {
  return await ask(control, { statusRequest: {} }, ({ status }) =>
    status ? (JSON.parse(status.json ?? '') as DaemonStatus) : undefined,
  )
}

/** The status of the named service; tried again until the daemon is there. */
export async function serviceStatus(scene: Scene, service = 'shop'): Promise<ServiceStatus> {
  return await until(`the daemon's status of "${service}"`, async () => {
    try {
      const { services } = await daemonStatus(scene.control)
      return services.find(one => one.service === service)
    } catch {
      await pause(20)
      return undefined
    }
  })
}

/** Waits until the daemon has heard that this member serves: it says so itself before. */
export async function servedBy(scene: Scene, app: App, service = 'shop'): Promise<ServiceStatus> {
  const heard = ({ pid, phase }: ServiceStatus) => pid === app.pid && phase !== 'committing'
  return await serviceWhere(scene, `the daemon knows that ${app.pid} serves`, heard, { service })
}

/** Waits for a status of the named service. */
export async function serviceWhere(
  scene: Scene,
  what: string,
  holds: (status: ServiceStatus) => boolean,
  { service = 'shop', ms = 15_000 } = {},
): Promise<ServiceStatus> {
  let last: ServiceStatus | undefined
  return await until(
    what,
    async () => {
      last = await serviceStatus(scene, service)
      return holds(last) ? last : null
    },
    ms,
    () => last,
  )
}
