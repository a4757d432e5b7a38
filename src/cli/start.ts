import { existsSync, mkdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { PARENT } from '../auto/exclusion.js'
import { defaultLog, LOG_FILE, LOG_SIZE, openPart } from '../auto/log-files.js'
import { settingsOf } from '../auto/settings.js'
import { wrongOption } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import { isDaemon } from '../operator/status-report.js'
import { successorCommand } from '../os/command-line.js'
import { indented } from '../versions/exit-reason.js'
import { AFTERMATH_MS, exitText, spawnSuccessor } from '../versions/spawn-successor.js'
import { pollUntil } from './ask-service.js'
import { durationOption } from './options.js'
import { print } from './output.js'

const ANSWER_MS = 2_000

interface StartProgramFlags {
  readonly name?: string
  readonly ready?: string
  readonly logFile?: string
  readonly logSize: string
  readonly pidFile?: string
  readonly timeout: number
  readonly json?: true
}

export function addStart(program: Command): void {
  program
    .command('start')
    .description(
      'start a Node program in the background under fd-broker/auto. If the program already runs, start its next version. Wait until it serves',
    )
    .argument('<program>')
    .argument('[args...]', 'arguments of the program, after --')
    .option('--name <service>', 'name of the service; default: the package’s or folder’s name')
    .option(
      '--ready <how>',
      'when the program is ready: listen, call, or a path such as /health that must answer; default: listen',
    )
    .option(
      '--log-file <file>',
      'file for the output; default: SERVICE.log in /var/log/fd-broker, or in the state folder',
    )
    .addOption(
      new Option('--log-size <size>', 'a log file of this size is rotated').argParser(sizeIn).default('10M'),
    )
    .option(
      '--pid-file <file>',
      'pid file of the serving process; default: SERVICE.pid beside the control socket',
    )
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
The program runs in its own session: it survives the end of the terminal. Each version writes to its own file; fd-broker logs shows
these files. fd-broker status, upgrade and stop find the program by --service.

Examples:
  $ fd-broker start server.js
  $ fd-broker start server.js --ready /health -- --port 8080
  $ fd-broker logs --service shop --follow
  $ fd-broker stop --service shop`,
    )
    .action(start)
}

function sizeIn(text: string): string {
  if (/^[1-9]\d*[BKMG]$/.test(text)) return text
  throw new InvalidArgumentError('Give a number with its unit: 500K, 10M, 1G.')
}

async function start(program: string, args: string[], flags: StartProgramFlags): Promise<void> {
  const file = resolve(program)
  if (!existsSync(file)) throw wrongOption('program', program, 'the file of a program')
  const named: NodeJS.ProcessEnv = {
    ...(flags.name !== undefined && { FD_BROKER_NAME: flags.name }),
    ...(flags.ready !== undefined && { FD_BROKER_READY: flags.ready }),
  }
  const { service, control } = settingsOf(file, { ...process.env, ...named })
  const log = resolve(flags.logFile ?? process.env[LOG_FILE] ?? defaultLog(service, process.env))
  const pidFile = resolve(flags.pidFile ?? control.replace(/\.sock$/, '.pid'))
  makeFolder('log-file', log)
  makeFolder('pid-file', pidFile)
  const part = openPart(log, { ...process.env, [LOG_SIZE]: flags.logSize })
  const auto = pathToFileURL(join(import.meta.dirname, 'auto.js')).href
  const command = successorCommand({
    argv: [process.execPath, '--import', auto, file, ...args],
    // PARENT is removed: the program is not part of one that runs this command under auto.
    env: { ...named, ...part.env, FD_BROKER_PID_FILE: pidFile, [PARENT]: undefined },
  })
  const begun = performance.now()
  const child = await spawnSuccessor(command, { control, stdio: part.stdio })
  part.close()
  child.unref()
  const ended = child.exited.then(async exit => {
    await new Promise(resolve => setTimeout(resolve, AFTERMATH_MS))
    const { why, lines } = child.exitReason.takeReason()
    throw new FdbError(
      'ERR_FDB_SUCCESSOR_EXITED',
      `${program} (pid ${child.pid}) ended ${exitText(exit)} before it served: ${why}; its log is ${part.path}${indented(lines)}`,
    )
  })
  let over = false
  ended.catch(() => {
    over = true
  })
  // Any number ends the polling once the program has ended.
  const look = async () => (over ? 0 : await generationOf(child.pid, control))
  const generation = await Promise.race([ended, pollUntil(begun + flags.timeout, look)])
  if (generation === null) {
    await child.end()
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `${program} (pid ${child.pid}) did not serve within ${flags.timeout} ms, and was ended; its log is ${part.path}`,
    )
  }
  child.exitReason.close()
  const ms = Math.round(performance.now() - begun)
  const text = `generation ${generation} of ${service} (pid ${child.pid}) serves, after ${ms} ms\nlog: ${log}\n`
  print(flags.json, { ok: true, service, generation, pid: child.pid, log, pidFile, control, ms }, text)
}

function makeFolder(option: string, path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  } catch (error) {
    throw wrongOption(option, path, `a file in a folder that can be made (${(error as Error).message})`)
  }
}

/** Returns the generation that process `pid` serves as; null if it does not serve yet. */
async function generationOf(pid: number, control: string): Promise<number | null> {
  try {
    const answer = await statusAt(control, ANSWER_MS)
    if (isDaemon(answer) || answer.pid !== pid || answer.role !== 'serving') return null
    return answer.generation ?? null
  } catch {
    return null
  }
}
