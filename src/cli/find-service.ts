import { existsSync } from 'node:fs'
import type { Command as AnyCommand } from 'commander'
import { didYouMean } from '../checks/spelling.js'
import { FdbError } from '../errors.js'
import { controlOf } from '../listeners/occupant.js'
import { listenerAt } from '../os/connect.js'
import {
  existingControls,
  isRunControl,
  lookupPaths,
  serviceAt,
  withoutRunOf,
} from '../os/default-control.js'
import { readPidFile } from '../os/pid-file.js'
import type { Command } from './command.js'
import { controlOption, durationOption } from './options.js'

export interface ServiceFlags {
  /** Given as an option, or found before the action runs. */
  readonly control: string
  readonly pidFile?: string
  readonly service?: string
}

const HELP = `fd-broker finds the service by --control, --pid-file, the variable FD_BROKER_CONTROL or --service NAME, in this order. For NAME it tries the
control sockets NAME.sock, NAME.run.sock (of fd-broker run), that of the main process (for a worker, such as NAME.1) and daemon.sock in
$RUNTIME_DIRECTORY, /run/fd-broker, $XDG_RUNTIME_DIR/fd-broker and /run/NAME; then NAME.sock and NAME.run.sock in fd-broker-UID in the user's
temporary folder (/tmp, or $TMPDIR). Without any of these options it uses the only socket in these folders, without /run/NAME. A service without
a configured control path creates its socket in the first of these folders that belongs to its user; only fd-broker start, fd-broker/auto and
fd-broker run also use the temporary folder: run the command as the service's user, because root does not look in another user's folder.`

/** Adds the options that find a running service. If `needless` returns true, no service is searched. */
export function addServiceOptions(command: Command, needless = (_asked: AnyCommand) => false): Command {
  return command
    .addOption(controlOption().makeOptionMandatory(false))
    .option('--pid-file <file>', 'pid file of the service')
    .option('--service <name>', 'name of the service')
    .notes(HELP)
    .hook('preAction', (_root, asked) => {
      if (!needless(asked)) asked.setOptionValue('control', findControl(asked))
    })
}

/** Returns the control path that the options of {@link addServiceOptions} name, or that of the only service. Throws ERR_FDB_NO_HOLDER. */
export function findControl(command: AnyCommand): string {
  const { control, pidFile, service } = command.opts<Partial<ServiceFlags>>()
  if (control !== undefined) return control
  if (pidFile !== undefined) return controlByPidFile(pidFile)
  const { env } = process
  if (env.FD_BROKER_CONTROL) return env.FD_BROKER_CONTROL
  if (service !== undefined) return controlByName(service, env)
  const existing = existingControls(env)
  const there = existing.length === 1 ? existing : withoutRunOf(existing.filter(isListening))
  if (there.length === 1) return there[0]!
  if (there.length === 0)
    throw noService('no service was found at a default path, and none was named (--service, --pid-file)')
  return command.error(
    `error: which service? ${there.map(serviceAt).join(', ')} run: give --service NAME (or --control, --pid-file, FD_BROKER_CONTROL)`,
  )
}

/** Returns the control path of the service with this name. Throws ERR_FDB_NO_HOLDER. */
export function controlByName(service: string, env: Readonly<NodeJS.ProcessEnv>): string {
  const places = lookupPaths(service, env)
  const there = places.filter(place => existsSync(place))
  // A killed service leaves NAME.sock behind: a supervisor that listens at NAME.run.sock is preferred.
  const run = there.slice(1).find(isRunControl)
  if (run !== undefined && !isListening(there[0]!) && isListening(run)) return run
  if (there.length > 0) return there[0]!
  const own = places.filter(place => !isRunControl(place) && serviceAt(place) === service)
  const looked = own.length === 0 ? 'a default path' : own.join(', ')
  const running = existingControls(env).filter(isListening).map(serviceAt)
  const others = running.length === 0 ? '' : `; running: ${running.join(', ')}`
  throw noService(
    `no service "${service}" runs: it has no control socket at ${looked}, and no daemon has one there${others}${didYouMean(service, running)}`,
  )
}

/** Whether a process may listen at the path: a killed process leaves its socket behind. */
function isListening(path: string): boolean {
  try {
    return listenerAt(path) !== null
  } catch {
    // The command reports why it cannot connect.
    return true
  }
}

function controlByPidFile(file: string): string {
  const pid = readPidFile(file)
  if (pid === null) throw noService(`${file} names no process`)
  const control = controlOf(pid)
  if (control !== null) return control
  throw noService(
    `process ${pid} (from ${file}) has no control socket that this process can see: it has ended, belongs to another user, or is a member of a daemon`,
  )
}

function noService(why: string): FdbError {
  return new FdbError('ERR_FDB_NO_HOLDER', `${why}: start it, or give --control`, { retryable: true })
}

export function addAskOptions(command: Command, needless?: () => boolean): Command {
  return addServiceOptions(command, needless)
    .json()
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
}
