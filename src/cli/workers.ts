import { Option } from 'commander'
import { DEFAULT_TIMES, defaultText } from '../base/default-times.js'
import { REPLACE_WORKERS, SET_WORKERS } from '../operator/service-commands.js'
import { type AnswerFlags, commandService, ofServiceWith, RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { openLog } from './log.js'
import { controlOption, durationOption, logLevelOption, toMs, workerCount } from './options.js'
import { print } from './output.js'

interface StartWorkersFlags {
  service: string
  count: number | 'auto'
  control?: string
  replace: 'one-by-one' | 'at-once'
  timeout: number
  stopTimeout: number | 'off'
  hungTimeout: number | 'off'
  logLevel: string
  logFile?: string
  pidFile?: string
}

export function addWorkers(program: Command): void {
  const workers = program
    .command('workers')
    .description('run several processes that serve the same listeners, under a main process')
  workers
    .command('start')
    .description(
      'start workers of a program that calls join() with this service, and run as their main process',
    )
    .argument('<command...>', 'command of each worker, after --')
    .requiredOption('--service <name>', 'name of the service')
    .addOption(
      new Option('--count <number>', 'number of workers; auto: one per processor')
        .argParser(workerCount)
        .default('auto'),
    )
    .addOption(controlOption().makeOptionMandatory(false))
    .addOption(
      new Option(
        '--replace <how>',
        'an upgrade replaces the first worker, then the others: one-by-one or at-once',
      )
        .choices(['one-by-one', 'at-once'])
        .default('one-by-one'),
    )
    .addOption(
      durationOption('--timeout <duration>', 'each worker must serve within this time', defaultText('ready')),
    )
    .addOption(
      new Option(
        '--stop-timeout <duration>',
        'a worker that still serves this long after TERM is killed; or off',
      )
        .argParser(msOrOff)
        .default(DEFAULT_TIMES.stop.ms, defaultText('stop')),
    )
    .addOption(
      new Option('--hung-timeout <duration>', 'a worker that is silent this long is replaced; or off')
        .argParser(msOrOff)
        .default(DEFAULT_TIMES.hung.ms, defaultText('hung')),
    )
    .option('--pid-file <file>', 'pid file of the main process')
    .option('--log-file <file>', 'write the log to this file instead of stderr; USR1 reopens it')
    .addOption(logLevelOption())
    .notes(`TERM ends the workers after their configured drain, then the main process; INT ends all immediately, QUIT after the last connection.
After HUP the workers read their configuration again. USR2 upgrades. USR1 and WINCH are passed on to the workers.`)
    .examples('fd-broker workers start --service shop --count 4 -- node server.mjs')
    .action(start)
  addAskOptions(workers.command('restart'))
    .description('replace every worker by a new process: the first, then the others')
    .examples('fd-broker workers restart --control /run/shop/upgrade.sock')
    .action((flags: AnswerFlags) => ask(flags, REPLACE_WORKERS, '', 'every worker was replaced'))
  addAskOptions(workers.command('set'))
    .description('change the number of workers')
    .argument('<number>', 'number of workers; auto: one per processor', workerCount)
    .examples('fd-broker workers set --control /run/shop/upgrade.sock 4')
    .action((count: number | 'auto', flags: AnswerFlags) =>
      ask(flags, SET_WORKERS, `${count}`, setText(count)),
    )
}

const msOrOff = (text: string) => (text === 'off' ? text : toMs(text))

async function start(command: string[], flags: StartWorkersFlags): Promise<void> {
  const { service, count, control, replace, timeout, stopTimeout, hungTimeout } = flags
  const { logLevel, logFile, pidFile } = flags
  const { runWorkers } = await import('./workers-main.js')
  const { logger, reopen } = await openLog({ level: logLevel, file: logFile })
  await runWorkers(
    {
      service,
      command,
      replace,
      timeout,
      stopTimeout,
      hungTimeout,
      workers: count,
      ...(control !== undefined && { control }),
      ...(pidFile !== undefined && { pidFile }),
    },
    { logger, reopen },
  )
}

function setText(count: number | 'auto'): string {
  if (count === 'auto') return 'one worker for each processor serves'
  return count === 1 ? '1 worker serves' : `${count} workers serve`
}

async function ask(flags: AnswerFlags, name: string, body: string, done: string): Promise<void> {
  await ofServiceWith(
    'this service has no workers, or is one of them: name the service of all workers',
    commandService(flags, RETRY_CODES, name, body),
  )
  print(flags.json, { ok: true }, `${done}\n`)
}
