import type { Command } from 'commander'
import { FdbError } from '../errors.js'
import { OwnedFd } from '../kernel/index.js'
import { readTold, STOP, stopBody, type Told } from '../operator/service-commands.js'
import { openPidfd, watchDeath } from '../process/liveness.js'
import { AGAIN, type AskFlags, asked } from './ask-service.js'
import { findsService } from './find-service.js'
import { jsonText } from './json-text.js'
import { durationOption } from './options.js'

interface StopFlags extends AskFlags {
  json?: true
  service?: string
  drain?: number
  drop?: true
}

export function addStop(program: Command): void {
  findsService(
    program
      .command('stop')
      .description(
        'end the running server when its last connection has ended; exit code 0 when its process has',
      ),
  )
    .addOption(durationOption('--timeout <duration>', 'how long to wait for its end', '60s'))
    .addOption(durationOption('--drain <duration>', 'for its last connections; default: as it is configured'))
    .option('--drop', 'of a daemon: also when it alone holds a service, which is lost then')
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
The control socket of a daemon without --service ends the daemon: its members serve on.

Examples:
  $ fd-broker stop --control /run/shop/upgrade.sock
  $ fd-broker stop --service shop --drain 5s`,
    )
    .action(stop)
}

async function stop({ json, service = '', drain, drop, ...flags }: StopFlags): Promise<void> {
  const until = performance.now() + flags.timeout
  const body = stopBody({ timeoutMs: drain ?? null, drop: drop ?? false })
  let ended: Promise<void> = Promise.resolve()
  let seen = true
  const told = await asked(flags, AGAIN, async (client, timeoutMs) => {
    const left = readTold(await client.command(STOP, body, { timeoutMs, service }))
    // Its number is its own as long as it has not closed this connection.
    seen = !client.elsewhere
    if (seen) ended = endOf(left, until)
    return left
  })
  await ended
  if (json) process.stdout.write(jsonText({ ok: true, ...told }))
  else process.stdout.write(`process ${told.pid} ${seen ? 'has ended' : 'ends'}\n`)
}

/** Where the process cannot be seen from here (another PID namespace), its word is enough. */
async function endOf({ pid }: Told, until: number): Promise<void> {
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) return
  await new Promise<void>((resolve, reject) => {
    const watch = watchDeath(pidfd, () => {
      clearTimeout(timer)
      resolve()
    })
    pidfd.close()
    const late = () => {
      // A watch keeps the command from its end.
      watch.close()
      reject(
        new FdbError(
          'ERR_FDB_DEADLINE',
          `process ${pid} was told to end, and has connections still: it ends with them`,
        ),
      )
    }
    const timer = setTimeout(late, Math.max(1, until - performance.now()))
  })
}
