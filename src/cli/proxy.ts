import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { Option } from 'commander'
import type { Logger } from '../base/logger.js'
import { ConfigDocument, checkMade } from '../config/document.js'
import { FdbError } from '../errors.js'
import { CHANGES, type ChangeReport } from '../operator/service-commands.js'
import { namedPath, startedAs, successorCommand } from '../os/command-line.js'
import { hasDefaultPath, workerPlace } from '../os/default-control.js'
import { realPathOf } from '../os/release-link.js'
import type { ProxyConfig, ProxyOptions, ReverseProxy } from '../proxy/index.js'
import type { WorkersOptions } from '../workers/options.js'
import { AccessLines } from './access-lines.js'
import type { Command } from './command.js'
import { LogFile, MISSING, openLog, REOPEN_FAILED } from './log.js'
import { logLevelOption, workerCount } from './options.js'
import { proxySignals } from './proxy-signals.js'
import { CONTROL_SIGNALS } from './signals.js'

interface ProxyFlags {
  config: string
  check?: true
  logLevel: string
  pidFile?: string
  logFile?: string
  accessLogFile?: string
  stay?: true
  workers?: number | 'auto'
  metrics?: string
  source?: string
}

export function addProxy(program: Command): void {
  program
    .command('proxy')
    .description('run the reference reverse proxy; a second start upgrades it')
    .requiredOption('--config <file>', 'configuration, YAML or JSON')
    .option('--check', 'only check the configuration')
    .option('--pid-file <file>', 'pid file of the serving process')
    .addOption(new Option('--workers <number>', 'number of processes, or auto').argParser(workerCount))
    .option('--metrics <address>', 'serve metrics at HOST:PORT or the path of a Unix socket')
    .option('--source <url>', 'follow a store, for example etcd://HOST:2379/PREFIX')
    .option('--stay', 'as PID 1: keep running after another container has taken over')
    .option('--log-file <file>', 'write the log to this file instead of stderr; USR1 reopens it')
    .option(
      '--access-log-file <file>',
      'write the access log to this file instead of stdout; USR1 reopens it',
    )
    .addOption(logLevelOption())
    .notes(`Signals: USR2 upgrades (starts the same command again). HUP reads the configuration again. WINCH stops accepting until HUP.
TERM ends the proxy within drain.timeout, QUIT after the last connection (in probation the previous version serves
again), INT or a second TERM at least 2 s later immediately. USR1 reopens the log files. The access log, if any,
is on stdout, the log on stderr. The proxy supports systemd (NOTIFY_SOCKET, LISTEN_FDS).`)
    .examples(
      'fd-broker proxy --config edge.yaml --check',
      'fd-broker proxy --config edge.yaml',
      'kill -HUP 4711',
    )
    .action(proxy)
}

async function proxy(flags: ProxyFlags): Promise<void> {
  const { check, logLevel, pidFile, logFile, accessLogFile, stay } = flags
  const file = check ? flags.config : namedPath(flags.config)
  const { readConfigAside, startProxy, tlsWarnings } = await import('../proxy/index.js')
  const { KeptConfig } = await import('../proxy/config/kept-config.js')
  const { withMetrics, withSource } = await import('../proxy/config/schema.js')
  const flagged = (read: ProxyConfig) => {
    // The main process runs the hooks of workers.
    const config = isWorkerOf(read) ? { ...read, hooks: undefined } : read
    const sourced = flags.source === undefined ? config : checkMade(flags.source, withSource(config))
    return flags.metrics === undefined ? sourced : checkMade(flags.metrics, withMetrics(sourced))
  }
  const kept = new KeptConfig(file)
  if (check) {
    const config = flagged(kept.check())
    requireControl(config, file)
    for (const { file: at, text } of tlsWarnings(config, Date.now()))
      process.stderr.write(`warning: ${at}: ${text}\n`)
    const folder = config.stateFile === null ? null : dirname(config.stateFile.path)
    if (folder !== null && !existsSync(folder))
      process.stderr.write(
        `warning: stateFile: there is no folder ${folder}: create it, or the state is not written to disk\n`,
      )
    const { listeners, upstreams, routes } = config
    const counts = Object.entries({ listeners, upstreams, routes }).map(
      ([name, { length }]) => `${length} ${length === 1 ? name.slice(0, -1) : name}`,
    )
    process.stdout.write(`${file} is valid: ${counts.join(', ')}\n`)
    // The next version starts faster with what is known now.
    await kept.keep()
    return
  }
  let logsAccess = false
  const log = await openLog({
    level: logLevel,
    file: logFile,
    other: (facts, message) => logsAccess && access.info(facts, message),
  })
  const { logger } = log
  const accessLog = await openAccessLog(accessLogFile, logger)
  const { lines: access } = accessLog
  const reopen = () => {
    log.reopen()
    accessLog.reopen()
  }
  const options: ProxyOptions = { logger, systemd: 'auto', ...(pidFile !== undefined && { pidFile }), access }
  const signals = proxySignals(logger, reopen)
  try {
    // Read in this thread: no client waits yet, and a worker thread would take longer.
    const config = flagged(kept.read())
    requireControl(config, file)
    const read = async () => {
      const now = flagged(await readConfigAside(file))
      if (flags.workers === undefined) requireWorkersAs(config, now)
      return now
    }
    logsAccess = config.accessLog
    const several = workersOptions(flags, config)
    if (several !== null) {
      const { runWorkers } = await import('./workers-main.js')
      const { service, control, upgrade } = config
      const options = { service, ...several, timeout: upgrade.timeout, ...(control && { control }) }
      const count = async () => workersOptions(flags, await read())?.workers ?? 1
      await runWorkers(
        { ...options, ...(pidFile && { pidFile }) },
        { logger, reopen, earlySignals: signals, count },
      )
      return
    }
    const changes = new ProxyChanges(config, read)
    const running: ReverseProxy = await startProxy(config, {
      ...options,
      signal: signals.starting,
      prepare: proxy => {
        proxy.member.onReload(async () => {
          await proxy.reload(await read())
          await proxy.member.resume()
        })
        proxy.member.command(CHANGES, async () => JSON.stringify(await changes.since(proxy.ownConfig)))
      },
    })
    const { generation } = running.member
    logger.info({ generation, listeners: running.addresses }, 'the proxy serves')
    signals.attach(running)
    setTimeout(() => void kept.keep(), SETTLED_MS).unref()
    const stayed = running.member.stay({ signals: CONTROL_SIGNALS, ...(stay && { until: signals.ending }) })
    const why = await running.retired
    logger.info({ generation, why }, 'the proxy has ended')
    process.exitCode = await stayed
    if (why === 'lost') throw new FdbError('ERR_FDB_LOST', 'the right to serve was taken back: see the log')
  } finally {
    signals.close()
    accessLog.end()
  }
}

/** When few clients wait that came during the handoff. */
const SETTLED_MS = 1_500

/** Throws ERR_FDB_CONFIG if the default path of the control socket cannot be made of the service's name. */
function requireControl({ control, service }: ProxyConfig, file: string): void {
  if (control !== null || hasDefaultPath(service)) return
  const { line, column } = new ConfigDocument(readFileSync(file, 'utf8')).position(['service'], false)
  const message = `${JSON.stringify(service)} cannot be the name of a control socket, because it has a slash; write another name, or give "control"`
  throw new FdbError('ERR_FDB_CONFIG', `${file}:${line}:${column}: service: ${message}`, {
    details: { file, problems: [{ line, column, key: 'service', message }], count: 1 },
  })
}

/** Returns the options of the workers; null if this process serves, alone or as a worker, instead of starting workers. */
function workersOptions(
  { workers }: ProxyFlags,
  config: ProxyConfig,
): Pick<WorkersOptions, 'workers' | 'replace' | 'stopTimeout' | 'hungTimeout' | 'hooks'> | null {
  const count = workers ?? config.workers?.count
  if (count === undefined || isWorkerOf(config)) return null
  const { hooks } = config
  if (config.workers === null) return { workers: count, hooks }
  const { hungTimeout, replace, stopTimeout } = config.workers
  return {
    workers: count,
    hooks,
    replace,
    stopTimeout: stopTimeout ?? 'off',
    hungTimeout: hungTimeout ?? 'off',
  }
}

function isWorkerOf({ service }: ProxyConfig): boolean {
  return workerPlace()?.service === service
}

/** Throws ERR_FDB_RELOAD if one configuration has workers and the other has none: a proxy with and a proxy without cannot take over from each other. */
function requireWorkersAs(before: ProxyConfig, now: ProxyConfig): void {
  if ((before.workers === null) === (now.workers === null)) return
  throw new FdbError(
    'ERR_FDB_RELOAD',
    `neither a reload nor an upgrade can ${now.workers === null ? 'remove' : 'add'} "workers": stop this proxy and start it with the new configuration`,
  )
}

/** Configuration keys that only the next process applies. */
const NEXT_PROCESS_KEYS: ReadonlySet<string> = new Set<keyof ProxyConfig>([
  'drain',
  'hooks',
  'upgrade',
  'stateFile',
  'source',
  'workers',
])
/** Routes compared per turn of the event loop. */
const SLICE = 1_000

/** Finds what has changed since the proxy started, for `fd-broker upgrade --smart`. */
class ProxyChanges {
  readonly #code = new CodeSnapshot()
  readonly #started: ProxyConfig
  readonly #read: () => Promise<ProxyConfig>

  constructor(started: ProxyConfig, read: () => Promise<ProxyConfig>) {
    this.#started = started
    this.#read = read
  }

  /** `inForce` is the configuration that the proxy has applied last. Rejects with ERR_FDB_CONFIG. */
  async since(inForce: ProxyConfig): Promise<ChangeReport> {
    const code = this.#code.changed()
    // An upgrade follows: the next version reads the configuration itself.
    if (code.length > 0) return { code, next: [], configuration: [] }
    const now = await this.#read()
    // Also keys that the file lacks now.
    const keys = [...new Set([...Object.keys(now), ...NEXT_PROCESS_KEYS])] as (keyof ProxyConfig)[]
    const differs = (key: keyof ProxyConfig, before: ProxyConfig) =>
      JSON.stringify(before[key]) !== JSON.stringify(now[key])
    const next = keys.filter(key => NEXT_PROCESS_KEYS.has(key) && differs(key, this.#started))
    const configuration = keys.filter(
      key => !NEXT_PROCESS_KEYS.has(key) && key !== 'routes' && differs(key, inForce),
    )
    if (!(await sameRoutes(inForce.routes, now.routes))) configuration.push('routes')
    return { code, next, configuration }
  }
}

async function sameRoutes(before: ProxyConfig['routes'], now: ProxyConfig['routes']): Promise<boolean> {
  if (before.length !== now.length) return false
  for (let from = 0; from < now.length; from += SLICE) {
    const slices = [before, now].map(routes => JSON.stringify(routes.slice(from, from + SLICE)))
    if (slices[0] !== slices[1]) return false
    await new Promise(resolve => setImmediate(resolve))
  }
  return true
}

/** Limit for unwritten bytes of the access log; lines beyond it are dropped. */
const MOST_BYTES = 8 * 1024 * 1024

interface AccessLog {
  readonly lines: AccessLines
  /** Opens the file again, for log rotation. Does nothing for stdout. */
  reopen(): void
  /** Writes the pending lines. A slow reader cannot keep the process alive: its lines are lost. */
  end(): void
}

/** Opens the access log, in `path` or on stdout. `logger` logs failures of it. */
async function openAccessLog(path: string | undefined, logger: Logger): Promise<AccessLog> {
  const file = await LogFile.open(
    { option: 'access-log-file', path, fd: 1, sync: false, most: MOST_BYTES },
    {
      failed: error =>
        logger.warn(
          { err: error, file: path },
          'the access log cannot be written: its lines are dropped until it can',
        ),
      missing: missing => lines.info({ missing }, MISSING),
      reopenFailed: error => logger.warn({ err: error, file: path }, REOPEN_FAILED),
    },
  )
  const lines = new AccessLines(file)
  return {
    lines,
    reopen: () => file.reopen(),
    end: () => {
      lines.flush()
      file.end()
    },
  }
}

/** Folders of addons within the package. */
const ADDONS = ['build/Release', `prebuilds/${process.platform}-${process.arch}`]

/**
 * Compares the code of this process (Node, the package, its addons, its working folder) with the code that its command would load now. Only
 * device, inode, size and times are compared: reading contents would slow each start. A file that was rewritten with the same bytes counts as
 * changed, which costs a harmless upgrade.
 */
export class CodeSnapshot {
  readonly #atStart = partsAtStart()

  /** Returns the names of changed parts. Throws the errors of `successorCommand()`: no upgrade is possible then. */
  changed(): string[] {
    const now = identifyParts()
    const names = new Set([...this.#atStart.keys(), ...now.keys()])
    return [...names].filter(name => this.#atStart.get(name) !== now.get(name)).sort()
  }
}

/** Returns an empty map if the command resolves to no program, because this process must serve nevertheless. */
function partsAtStart(): Map<string, string> {
  try {
    return identifyParts()
  } catch {
    return new Map()
  }
}

function identifyParts(): Map<string, string> {
  const { file, cwd } = successorCommand()
  const found = new Map([['node', identityOf(realPathOf(file), true)]])
  // The times of the folder are left out: they change with every file in it.
  const { dev, ino } = statSync(cwd, { bigint: true })
  found.set('the working folder', `${dev} ${ino}`)
  if (startedAs.script === undefined) return found
  const script = realpathSync(resolve(cwd, startedAs.script))
  const root = dirname(dirname(script))
  for (const folder of [basename(dirname(script)), ...ADDONS])
    for (const [name, real] of filesIn(join(root, folder))) found.set(`${folder}/${name}`, identityOf(real))
  found.set('package.json', identityOf(realPathOf(join(root, 'package.json'))))
  return found
}

/** Returns the real path of each file, by name. Only links are resolved, because realpath() takes longer than all other calls here. */
function filesIn(folder: string): [name: string, real: string | null][] {
  try {
    const real = realpathSync(folder)
    return readdirSync(real, { withFileTypes: true })
      .filter(entry => !entry.isDirectory())
      .map(entry => {
        const path = join(real, entry.name)
        return [entry.name, entry.isSymbolicLink() ? realPathOf(path) : path]
      })
  } catch {
    return []
  }
}

/**
 * Identifies a file by path, inode, size and times: the same file in another release's folder counts as changed. Size and times are
 * left out for a running program, which cannot change.
 */
function identityOf(real: string | null, runs = false): string {
  if (real === null) return 'none'
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(real, { bigint: true })
    return [real, dev, ino, ...(runs ? [] : [size, mtimeNs, ctimeNs])].join(' ')
  } catch {
    return 'none'
  }
}
