import { type Command, Option } from 'commander'
import { FdbError } from '../errors.js'
import { CHANGES, changesReply } from '../operator/service-commands.js'
import { refuseWithoutPlace, workerPlace } from '../os/default-control.js'
import type { ProxyConfig, ProxyOptions, ReverseProxy } from '../proxy/index.js'
import type { WorkersOptions } from '../workers/options.js'
import { openAccessLog } from './access-log.js'
import { openLog } from './log.js'
import { LEVELS } from './options.js'
import { ProxyChanges } from './proxy-changes.js'
import { ProxySignals } from './proxy-signals.js'
import { tellTurn } from './serving.js'
import { ORDERS } from './signal-orders.js'
import { countIn } from './worker-count.js'

interface ProxyFlags {
  config: string
  check?: true
  logLevel: string
  pidFile?: string
  logFile?: string
  accessLogFile?: string
  stay?: true
  workers?: number | 'auto'
}

export function addProxy(program: Command): void {
  program
    .command('proxy')
    .description(
      'run the reference reverse proxy; starting a second one with the same control is the upgrade',
    )
    .requiredOption('--config <file>', 'configuration, YAML or JSON')
    .option('--check', 'only check the configuration')
    .option('--pid-file <file>', 'a file that names the process that serves')
    .addOption(
      new Option(
        '--workers <number>',
        'so many processes, or auto; in place of what the configuration says',
      ).argParser(countIn),
    )
    .option('--stay', 'as PID 1, replaced by another container’s: stays until it is told to end (Kubernetes)')
    .option('--log-file <file>', 'of the log, in place of stderr; opened anew by USR1')
    .option('--access-log-file <file>', 'of the access log, in place of stdout; opened anew by USR1')
    .addOption(
      new Option('--log-level <level>', 'of the log, JSON lines on stderr').choices(LEVELS).default('info'),
    )
    .addHelpText(
      'after',
      `
Signals: USR2 upgrade (starts the command it was started with), HUP reads the configuration anew, WINCH accepts no more
(until HUP), TERM ends it within drain.timeout, QUIT when the last connection has ended (in probation the version
before serves again), INT or a later second TERM at once, USR1 opens the files of the logs anew. The access log, if any,
is on stdout, the log on stderr. A service manager (NOTIFY_SOCKET, LISTEN_FDS) is heard and told.

Examples:
  $ fd-broker proxy --config edge.yaml --check
  $ fd-broker proxy --config edge.yaml
  $ kill -HUP 4711`,
    )
    .action(proxy)
}

async function proxy(flags: ProxyFlags): Promise<void> {
  const { config: file, check, logLevel, pidFile, logFile, accessLogFile, stay } = flags
  const { certificateWarnings, readConfig, readConfigAside, startProxy } = await import('../proxy/index.js')
  if (check) {
    const config = await readConfig(file)
    if (config.control === null) refuseWithoutPlace(config.service)
    for (const { facts, text } of certificateWarnings(config, Date.now()))
      process.stderr.write(`warning: ${facts.certificate}: ${text}\n`)
    const { listeners, upstreams, routes } = config
    const counts = `${listeners.length} listeners, ${upstreams.length} upstreams, ${routes.length} routes`
    process.stdout.write(`${file} is right: ${counts}\n`)
    return
  }
  const { withUsualFlags } = await import('../proxy/young-generation.js')
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
  const options: ProxyOptions = {
    logger,
    systemd: 'auto',
    ...(pidFile !== undefined && { pidFile }),
    access,
  }
  const read = () => readConfigAside(file)
  const signals = new ProxySignals(logger, reopen)
  try {
    // Nobody is served yet who would have to wait: a thread to read it takes longer.
    const config = await readConfig(file)
    logsAccess = config.accessLog
    const several = severalOf(flags, config)
    if (several !== null) {
      const { runWorkers } = await import('./workers-main.js')
      const { service, control, upgrade } = config
      const options = { service, ...several, timeout: upgrade.timeout, ...(control && { control }) }
      const count = async () => severalOf(flags, await read())?.workers ?? 1
      await runWorkers(
        { ...options, ...(pidFile && { pidFile }) },
        { logger, reopen, before: signals, count },
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
        proxy.member.command(CHANGES, async () => changesReply(await changes.since(proxy.config)))
      },
    })
    const { generation } = running.member
    logger.info({ generation, listeners: running.addresses }, 'the proxy serves')
    signals.attach(running)
    tellTurn(generation > 1 ? 'joined' : 'served', withUsualFlags)
    const stayed = running.member.stay({ signals: ORDERS, ...(stay && { until: signals.ending }) })
    const why = await running.retired
    logger.info({ generation, why }, 'the proxy has ended')
    process.exitCode = await stayed
    if (why === 'replaced' && generation > 1) tellTurn('left', withUsualFlags)
    if (why === 'lost') throw new FdbError('ERR_FDB_LOST', 'the right to serve was taken back: see the log')
  } finally {
    signals.close()
    accessLog.end()
  }
}

/** Null: this process serves, alone or as one of them. */
function severalOf(
  { workers }: ProxyFlags,
  config: ProxyConfig,
): Pick<WorkersOptions, 'workers' | 'replace' | 'stopTimeout' | 'hungTimeout'> | null {
  const count = workers ?? config.workers?.count
  if (count === undefined || workerPlace()?.service === config.service) return null
  if (config.workers === null) return { workers: count }
  const { hungTimeout, replace, stopTimeout } = config.workers
  return { workers: count, replace, stopTimeout: stopTimeout ?? 'off', hungTimeout: hungTimeout ?? 'off' }
}
