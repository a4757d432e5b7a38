import { Option } from 'commander'
import { type Logger, SILENT } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { releaseSignals } from '../kernel/index.js'
import { findInheritedState, type InheritedState, RELEASES_SIGNALS } from '../run/exec-state.js'
import type { Predecessor } from '../run/predecessor.js'
import type { VersionSettings } from '../run/settings.js'
import type { Supervisor } from '../run/supervisor.js'
import type { Command } from './command.js'
import { openLog } from './log.js'
import { logLevelOption } from './options.js'
import { codeAndMessage, writeStderr } from './output.js'
import { RUN_OPTIONS, type RunFlags, RunSources, UPGRADE_SIGNALS } from './run-sources.js'
import { reportServerStage, Signals } from './signals.js'

/** Limit for a daemon's answer while it is being upgraded. */
const DAEMON_ANSWER_MS = 60_000

export function addRun(program: Command): void {
  const command = program
    .command('run')
    .description('run any program, and replace the program by its next version without refusing a connection')
    .argument('[command...]', 'command of the program, after --')
  for (const [name, [flags, { about, byDefault }]] of Object.entries(RUN_OPTIONS)) {
    const written = byDefault?.written
    const description = written === undefined ? about : `${about} (default: ${written})`
    const option = new Option(flags, description).env(
      `FD_BROKER_${name.replace(/[A-Z]/g, '_$&').toUpperCase()}`,
    )
    command.addOption(name === 'from' ? option.conflicts('adopt') : option)
  }
  command
    .addOption(logLevelOption())
    .notes(`The program finds its listeners as under systemd (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES) and under Server::Starter
(SERVER_STARTER_PORT). Flags override FD_BROKER_… variables, which override --config.

Signals: HUP starts the next version. TERM, INT and QUIT end the program, and a second one at least 2 s later kills it; then this
process ends with the program's exit code. All other signals are passed on to the program.`)
    .examples(
      'fd-broker run --listen web=tcp://0.0.0.0:8080 --ready http:/health -- gunicorn app:app',
      'fd-broker run --listen web=tcp://[::]:443 --ready notify --healthy-for 10s --control /run/shop/run.sock -- ./shop',
      'fd-broker run --adopt 4711 --listen web=tcp://0.0.0.0:8080 --ready http:/health -- ./shop',
      'fd-broker run --ready handoff:/run/shop/upgrade.sock -- node server.mjs',
      'fd-broker upgrade --control /run/shop/run.sock',
      'fd-broker upgrade --control /run/shop/run.sock -- ./shop-2 --verbose',
    )
    .action(run)
}

async function run(command: string[], flags: RunFlags & { logLevel: string }): Promise<void> {
  const inherited = findInheritedState()
  const sources = new RunSources(command, flags)
  const state = inherited?.take ? inherited.state : null
  const settings = state?.settings ?? (await sources.supervisorSettings())
  // Wrong settings fail here, before the supervisor starts.
  const first = state === null ? await sources.versionSettings() : null
  // If this image replaces an earlier one, the earlier image has taken over already: its state has the descriptors.
  const takeover = state === null ? sources.takeover : null
  const { Supervisor } = await import('../run/supervisor.js')
  if (inherited !== null && !inherited.take) return reportDryRun(inherited)
  const { logger } = await openLog({ level: flags.logLevel })
  const signals = runSignals(logger, settings.upgradeSignal)
  let predecessor: Predecessor | null = null
  try {
    if (first !== null && flags.from !== undefined) await duplicateFrom(`${flags.from}`, first, logger)
    if (first !== null && takeover !== null)
      predecessor = (await import('../run/predecessor.js')).Predecessor.of(takeover, first.listen, logger)
    const parts = {
      settings,
      read: () => sources.versionSettings(),
      readSupervisorSettings: sources.hasFile ? () => sources.supervisorSettings() : null,
      logger,
      predecessor,
    }
    const running: Supervisor =
      state === null ? await Supervisor.start(parts) : await Supervisor.resume(parts, state)
    signals.attach(running)
    // The previous image blocked signals before it executed this one.
    if (state !== null) releaseSignals()
    reportServerStage('served')
    const { code, failure } = await running.ended
    process.exitCode = code
    // The failure is printed too: the log may be silent.
    if (failure !== null) writeStderr(codeAndMessage(failure))
  } finally {
    predecessor?.[Symbol.dispose]()
    signals.close()
  }
}

/** Duplicates listeners that a daemon holds; retries while the daemon is being upgraded. */
async function duplicateFrom(control: string, first: VersionSettings, logger: Logger): Promise<void> {
  const { IDEMPOTENT_RETRY_CODES, askService } = await import('./ask-service.js')
  const { takeHeld } = await import('../run/claimed-descriptors.js')
  const taken = await askService({ control, timeout: DAEMON_ANSWER_MS }, IDEMPOTENT_RETRY_CODES, client =>
    takeHeld(client, first),
  )
  for (const listener of taken) logger.info({ ...listener, daemon: control }, 'a daemon holds a listener')
}

/** Reports to the running supervisor, by exit code or error, whether this release can continue from the state of that supervisor. */
function reportDryRun({ state }: InheritedState): void {
  if (state === null)
    throw new FdbError(
      'ERR_FDB_VERSION',
      'this release cannot read the state of the running supervisor: restart the service to change the release',
    )
  if (releaseSignals()) process.exitCode = RELEASES_SIGNALS
}

/** Handles the signals of a supervisor. As PID 1 the process receives only signals that have a handler. */
function runSignals(
  logger: Logger,
  upgradeSignal: NodeJS.Signals,
): Pick<Signals<Supervisor>, 'attach' | 'close'> {
  const early: NodeJS.Signals[] = []
  const end = (supervisor: Supervisor | null, signal: NodeJS.Signals) => {
    // The signal is kept until the supervisor runs: an order to end must not be lost.
    if (supervisor === null) {
      early.push(signal)
      return
    }
    const order = signals.endOrder()
    if (order === 'first') {
      logger.info({ signal }, 'the program is ended')
      // For TERM the program gets the configured stop signal; for INT and QUIT it gets the same signal.
      supervisor.stop(signal === 'SIGTERM' ? {} : { signal })
    } else if (order === 'again') supervisor.stop({ now: true })
  }
  const upgradeOrForward = (supervisor: Supervisor | null, signal: NodeJS.Signals) => {
    if (signal !== upgradeSignal) supervisor?.forward(signal)
    // The supervisor logs the result.
    else supervisor?.upgrade().catch(() => {})
  }
  const signals = new Signals<Supervisor>(SILENT, {
    ...Object.fromEntries(UPGRADE_SIGNALS.map(signal => [signal, upgradeOrForward])),
    SIGTERM: end,
    SIGINT: end,
    SIGQUIT: end,
  })
  return {
    attach: supervisor => {
      signals.attach(supervisor)
      for (const signal of early.splice(0)) end(supervisor, signal)
    },
    close: () => signals.close(),
  }
}
