import { type Command, Option } from 'commander'
import { FdbError } from '../errors.js'
import { controlOption, LEVELS } from './options.js'
import { plain } from './table.js'

interface ServeFlags {
  control: string
  logLevel: string
}

export function addServe(program: Command): void {
  program
    .command('serve')
    .description(
      'run the daemon that holds listeners and state for its members, so that they outlive a kill -9',
    )
    .addOption(controlOption())
    .addOption(
      new Option('--log-level <level>', 'of the log, JSON lines on stderr').choices(LEVELS).default('info'),
    )
    .addHelpText(
      'after',
      `
Members join it with join({ service, control, hosting: 'daemon' }). SIGTERM and SIGINT end it.

Examples:
  $ fd-broker serve --control /run/shop/broker.sock
  $ fd-broker serve --control /run/shop/broker.sock --log-level warn 2>>/var/log/fd-broker.log`,
    )
    .action(serve)
}

async function serve({ control, logLevel }: ServeFlags): Promise<void> {
  // Loaded here: the other commands start faster without.
  const { pino } = await import('pino')
  const { serveDaemon } = await import('../holder/daemon.js')
  const logger = pino({ name: 'fd-broker', level: logLevel }, pino.destination({ dest: 2, sync: true }))
  const starting = new AbortController()
  let stop = () => starting.abort(new FdbError('ERR_FDB_ABORTED', 'ended by a signal before it listened'))
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    // Once: a second one ends the process in the system's own way.
    process.once(signal, () => {
      logger.info({ signal }, 'the daemon ends')
      stop()
    })
  }
  const daemon = await serveDaemon({ control, logger, signal: starting.signal })
  await new Promise<void>((resolve, reject) => {
    stop = () => void daemon.close().then(resolve, reject)
    daemon.closed.then(resolve, reject)
    process.stdout.write(`fd-broker (pid ${process.pid}) listens on ${plain(control)}\n`)
  })
}
