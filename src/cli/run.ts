import { Option } from 'commander'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { releaseSignals, restoreBlocking } from '../kernel/index.js'
import { findInheritedState, type InheritedState, RELEASES_SIGNALS } from '../run/exec-state.js'
import type { ListenerDaemon } from '../run/listener-daemon.js'
import type { Command } from './command.js'
import { openLog } from './log.js'
import { logLevelOption } from './options.js'
import { codeAndMessage, writeStderr } from './output.js'
import { RUN_OPTIONS, type RunFlags, RunSources } from './run-sources.js'

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
  if (inherited !== null && !inherited.take) {
    await warnOfSettings(sources)
    await import('./run-main.js')
    return reportDryRun(inherited)
  }
  const state = inherited?.state ?? null
  const settings = state?.settings ?? (await sources.supervisorSettings())
  // Wrong settings fail here, before the supervisor starts.
  const first = state === null ? await sources.versionSettings() : null
  // If this image replaces an earlier one, the earlier image has taken over already: its state has the descriptors.
  const takeover = state === null ? sources.takeover : null
  const { runSupervisor } = await import('./run-main.js')
  const { logger } = await openLog({ level: flags.logLevel })
  for (const stream of [1, 2] as const) restoreBlocking(stream)
  using daemon = flags.from === undefined ? null : await listenerDaemon(`${flags.from}`, logger)
  const { code, failure } = await runSupervisor({
    settings,
    read: () => sources.versionSettings(),
    readSupervisorSettings: sources.hasFile ? () => sources.supervisorSettings() : null,
    logger,
    state,
    daemon,
    takeOver: async () => {
      if (first !== null) await daemon?.take(first)
      if (first === null || takeover === null) return null
      return (await import('../run/predecessor.js')).Predecessor.of(takeover, first.listen, logger)
    },
  })
  process.exitCode = code
  // The failure is printed too: the log may be silent.
  if (failure !== null) writeStderr(codeAndMessage(failure))
}

/** A mistake in the file concerns the next version only: the running supervisor keeps its settings, and may need this release. */
async function warnOfSettings(sources: RunSources): Promise<void> {
  try {
    await sources.supervisorSettings()
    await sources.versionSettings()
  } catch (error) {
    const mistake = FdbError.from(error)
    if (mistake.code !== 'ERR_FDB_CONFIG') throw error
    writeStderr(`warning: ${codeAndMessage(mistake)}\nCorrect the file before the next version is started.`)
  }
}

async function listenerDaemon(control: string, logger: Logger): Promise<ListenerDaemon> {
  const { IDEMPOTENT_RETRY_CODES, askService } = await import('./ask-service.js')
  const { ListenerDaemon } = await import('../run/listener-daemon.js')
  const asked = { control, timeout: DAEMON_ANSWER_MS }
  return new ListenerDaemon(control, work => askService(asked, IDEMPOTENT_RETRY_CODES, work), logger)
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
