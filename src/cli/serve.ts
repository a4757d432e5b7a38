import type { Logger } from '../base/logger.js'
import { wrongOption } from '../checks/place.js'
import type { Daemon } from '../daemon/daemon.js'
import { namedPath } from '../os/command-line.js'
import { DAEMON, defaultControl } from '../os/default-control.js'
import type { Command } from './command.js'
import { openLog } from './log.js'
import { collectAlone } from './lone-collections.js'
import { controlOption, logLevelOption } from './options.js'
import { plain } from './output.js'
import { CONTROL_SIGNALS, runLogged, Signals } from './signals.js'

interface ServeFlags {
  control?: string
  logLevel: string
  drop?: true
  config?: string
  check?: true
  pidFile?: string
  logFile?: string
}

export function addServe(program: Command): void {
  program
    .command('serve')
    .description('run the daemon that holds listeners and state for its members')
    .addOption(controlOption().makeOptionMandatory(false))
    .option('--config <file>', 'access rules, limits, and the action for a service without members')
    .option('--check', 'only check the configuration')
    .addOption(logLevelOption())
    .option('--log-file <file>', 'write the log to this file instead of stderr; USR1 reopens it')
    .option('--pid-file <file>', 'pid file of the daemon')
    .option('--drop', 'end at the first TERM or INT, even if listeners or state of a service are lost')
    .notes(`Members join with join({ service, control, hosting: 'daemon' }). Without --control, and without control in join(), both use daemon.sock
in the default folder (fd-broker status --help). TERM, INT and QUIT end the daemon; its members keep serving. If the daemon holds listeners
or state of a service without a living member, it logs them, and ends only at a second signal within 60 s.
If a daemon already listens on the control socket, the new daemon takes over everything that it holds. USR2, or fd-broker upgrade
--self, starts the next daemon. After WINCH joining members wait until HUP, which also reads --config again. USR1 reopens --log-file. The
daemon supports systemd (NOTIFY_SOCKET, LISTEN_FDS).`)
    .examples(
      'fd-broker serve --control /run/shop/broker.sock',
      'fd-broker serve --control /run/shop/broker.sock --config /etc/fd-broker/broker.yaml',
      'fd-broker serve --control /run/shop/broker.sock --log-level warn 2>>/var/log/fd-broker.log',
    )
    .action(serve)
}

async function serve({
  control = defaultControl(DAEMON, process.env),
  config,
  check,
  logLevel,
  drop,
  pidFile,
  logFile,
}: ServeFlags): Promise<void> {
  if (check) {
    await checkConfig(config)
    return
  }
  const { serveDaemon } = await import('../daemon/daemon.js')
  const { logger, reopen } = await openLog({ level: logLevel, file: logFile })
  const signals = serveSignals(logger, drop ?? false, reopen)
  try {
    const daemon = await serveDaemon({
      control,
      logger,
      signal: signals.starting,
      systemd: 'auto',
      takeOver: true,
      mainProcess: 'stays',
      ...(config !== undefined && { config: namedPath(config) }),
      ...(pidFile !== undefined && { pidFile }),
    })
    signals.attach(daemon)
    collectAlone()
    // The daemon must not end if the reader of its output ends.
    process.stdout.removeAllListeners('error').on('error', () => {})
    process.stdout.write(`fd-broker (pid ${process.pid}) listens on ${plain(control)}\n`)
    const stayed = daemon.stay({ signals: CONTROL_SIGNALS })
    await daemon.closed
    process.exitCode = await stayed
  } finally {
    signals.close()
  }
}

async function checkConfig(config: string | undefined): Promise<void> {
  if (config === undefined) throw wrongOption('check', true, '--config too')
  const { readPolicy } = await import('../daemon/policy/schema.js')
  const { services } = readPolicy(config)
  process.stdout.write(
    `${config} is valid: ${services.size === 1 ? '1 service is' : `${services.size} services are`} named\n`,
  )
}

/** A second signal within this time ends the daemon although no other process holds its descriptors or state. */
const SECOND_MS = 60_000

/** Handles the signals of a daemon. With `drop` the first TERM or INT ends it even if descriptors or state are lost. */
function serveSignals(logger: Logger, drop: boolean, reopen: () => void): Signals<Daemon> {
  let firstAt = Number.NEGATIVE_INFINITY
  const mayEnd = ({ soleCopies: alone }: Daemon) => {
    const again = performance.now() - firstAt < SECOND_MS
    firstAt = performance.now()
    for (const holding of alone)
      logger.warn(
        holding,
        drop || again
          ? 'the daemon ends, and closes listeners, descriptors and state that no other process holds'
          : `the daemon keeps running, because no other process holds these listeners, descriptors and state: start a member, or send the signal again within ${SECOND_MS / 1000} s (with --drop the first signal ends the daemon)`,
      )
    return drop || again || alone.length === 0
  }
  const end = (daemon: Daemon | null, signal: NodeJS.Signals) => {
    if (daemon === null) signals.abortStart(signal, 'it listened')
    else if (mayEnd(daemon)) {
      logger.info({ signal }, 'the daemon ends')
      void daemon.close()
    }
  }
  const signals = new Signals<Daemon>(logger, {
    SIGUSR1: reopen,
    SIGUSR2: daemon => {
      if (daemon === null || daemon.staysForOthers) return
      void runLogged(logger, () => daemon.upgrade(), {
        done: ({ pid, generation }) => logger.info({ successor: pid, generation }, 'upgraded'),
        failed: 'the upgrade failed; this daemon keeps serving',
      })
    },
    SIGHUP: daemon => {
      if (daemon === null) return
      daemon.resume()
      void runLogged(logger, () => daemon.reload(), {
        failed: 'the configuration is wrong: the previous one stays in force',
      })
    },
    SIGWINCH: daemon => {
      daemon?.pause()
      logger.warn({}, 'processes that join wait until HUP')
    },
    SIGTERM: end,
    SIGINT: end,
    SIGQUIT: end,
  })
  return signals
}
