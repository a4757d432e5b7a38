import type { Command } from 'commander'
import { FdbError } from '../errors.js'
import { type DaemonStatus, isDaemon, type ServiceStatus, type StatusAnswer } from '../operator/answer.js'
import { OperatorClient } from '../operator/client.js'
import type { UpgradeProgress } from '../operator/requests.js'
import { findsService } from './find-service.js'
import { jsonText } from './json-text.js'
import { durationOption } from './options.js'
import { plain } from './table.js'

/** Until the other side has shown that it speaks the protocol: what comes after may take the whole `--timeout`. */
const FIRST_ANSWER_MS = 5_000

const CANCELLING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

interface UpgradeFlags {
  control: string
  json?: true
  timeout: number
  service?: string
  killStuck?: true
}

/** One phase as `--json` prints it. */
interface Phase {
  readonly phase: string
  /** Since the request. */
  readonly ms: number
  readonly pid: number
}

export function addUpgrade(program: Command): void {
  findsService(program.command('upgrade'))
    .description(
      'have the running server start its next version, and wait until that one serves; exit code 0 only then',
    )
    .argument('[command...]', 'of the next version, after --; default: as the running one was started')
    .addOption(durationOption('--timeout <duration>', 'until the next version must serve', '60s'))
    .option(
      '--kill-stuck',
      'first end (SIGKILL) the processes that status names as blocking the upgrade; and a server that does not answer, whose listeners and state are kept',
    )
    .option('--json', 'print one JSON object at the end instead of lines as it goes')
    .addHelpText(
      'after',
      `
The command runs as the server's user, in its working folder and with its environment. INT (Ctrl-C), TERM and HUP
cancel the upgrade: until its Commit the next version is ended, and the running one serves on; the answer says which of them
serves. A second one, or kill -9, ends only this tool.

Examples:
  $ fd-broker upgrade --control /run/shop/upgrade.sock
  $ fd-broker upgrade --control /run/shop/upgrade.sock --timeout 2m
  $ fd-broker upgrade --control /run/shop/upgrade.sock -- node /srv/shop-2/server.mjs --verbose`,
    )
    .action(upgrade)
}

async function upgrade(
  argv: string[],
  { control, json, timeout, service = '', killStuck }: UpgradeFlags,
): Promise<void> {
  const say = (line: string) => {
    if (!json) process.stdout.write(`${line}\n`)
  }
  const answerMs = Math.min(FIRST_ANSWER_MS, timeout)
  using client = await OperatorClient.connect(control, { timeoutMs: answerMs })
  const hung = await client.status({ timeoutMs: answerMs }).then(
    answer => {
      say(headline(answer, service))
      return false
    },
    error => {
      if (!killStuck || (error as Partial<FdbError>).code !== 'ERR_FDB_DEADLINE') throw error
      return true
    },
  )
  const phases: Phase[] = []
  const begun = Date.now()
  const since = () => Math.max(0, Date.now() - begun)
  const progress = ({ phase, at, pid }: UpgradeProgress) => {
    const ms = at > 0 ? Math.max(0, Math.round(at - begun)) : since()
    phases.push({ phase, ms, pid })
    say(`${String(ms).padStart(7)} ms  ${plain(phase).padEnd(11)} pid ${pid}`)
  }
  const interrupted = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    if (interrupted.signal.aborted) process.exit(1)
    process.stderr.write(`${signal}: cancelling the upgrade\n`)
    interrupted.abort()
  }
  for (const signal of CANCELLING) process.on(signal, cancel)
  try {
    const limits = { argv, timeoutMs: timeout, progress, signal: interrupted.signal }
    const { pid, generation } = hung
      ? await (await import('../member/hung-incumbent.js')).replaceHung({ ...limits, control, say })
      : await client.upgrade({ ...limits, service, killStuck: killStuck ?? false })
    say(`generation ${generation} (pid ${pid}) serves, after ${since()} ms`)
    if (json) print({ ok: true, pid, generation, ms: since(), phases })
  } catch (error) {
    if (json && FdbError.is(error)) {
      print({ ok: false, code: error.code, message: error.message, ms: since(), phases })
    }
    throw error
  } finally {
    for (const signal of CANCELLING) process.off(signal, cancel)
  }
}

function headline(answer: StatusAnswer, name: string): string {
  const now = isDaemon(answer) ? serviceOf(answer, name) : answer
  // The daemon itself refuses a name that it does not hold.
  if (now === undefined) return 'upgrading'
  return `upgrading ${plain(now.service)} from generation ${plain(now.generation)} (pid ${plain(now.pid)})`
}

function serviceOf({ services }: DaemonStatus, name: string): ServiceStatus | undefined {
  return name === '' && services.length === 1 ? services[0] : services.find(({ service }) => service === name)
}

function print(outcome: object): void {
  process.stdout.write(jsonText(outcome))
}
