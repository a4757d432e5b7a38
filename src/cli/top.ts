import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import type { AnswerFlags } from './ask-service.js'
import type { Command } from './command.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { codeAndMessage, plain } from './output.js'
import { CANCEL_SIGNALS } from './signals.js'
import { statusText } from './status.js'
import { narrowAnswer } from './status-answer.js'
import { type Order, screenLines, stepKey, type TopState, WATCHING } from './top-screen.js'

/** The alternate screen without a cursor, and back: the terminal then shows what it showed before. */
const ENTER = '\x1b[?1049h\x1b[?25l'
const LEAVE = '\x1b[?25h\x1b[?1049l'
/** Lines of an order that are kept. */
const OUTPUT_LINES = 50

interface TopFlags extends AnswerFlags {
  interval: number
}

export function addTop(program: Command): void {
  addServiceOptions(program.command('top'))
    .description(
      'show the status on the whole terminal, again and again, with keys to upgrade, roll back and stop',
    )
    .addOption(durationOption('--interval <duration>', 'time between two questions', '1s'))
    .addOption(durationOption('--timeout <duration>', 'limit for an answer', '5s'))
    .notes(
      `Each order must be confirmed with y. Its command is the same as on a command line; Ctrl-C cancels it, and then ends fd-broker top.`,
    )
    .examples(
      'fd-broker top --service shop',
      'fd-broker top --control /run/shop/upgrade.sock --interval 500ms',
    )
    .action(top)
}

async function top(flags: TopFlags, command: Command): Promise<void> {
  if (!process.stdin.isTTY || !process.stdout.isTTY)
    command.error('error: fd-broker top needs a terminal; a program reads fd-broker status --json')
  using screen = new Top(flags)
  await screen.untilLeft()
}

/** The screen, the keys and the order that runs. */
class Top implements Disposable {
  readonly #flags: TopFlags
  readonly #left = new AbortController()
  readonly #leave = () => this.#left.abort()
  readonly #draw = () => this.#drawScreen()
  #state: TopState = WATCHING
  #status = 'asking the service'
  #output: string[] = []
  #order: ChildProcess | null = null

  constructor(flags: TopFlags) {
    this.#flags = flags
    process.stdout.write(ENTER)
    process.stdin.setRawMode(true).setEncoding('utf8').on('data', this.#onKeys)
    process.stdout.on('resize', this.#draw)
    // From other processes: in raw mode Ctrl-C is a key.
    for (const signal of CANCEL_SIGNALS) process.on(signal, this.#leave)
  }

  /** An order that still runs goes on, and this process ends after it. */
  [Symbol.dispose](): void {
    for (const signal of CANCEL_SIGNALS) process.off(signal, this.#leave)
    process.stdout.off('resize', this.#draw)
    process.stdin.off('data', this.#onKeys).pause().setRawMode(false)
    process.stdout.write(LEAVE)
  }

  async untilLeft(): Promise<void> {
    const { signal } = this.#left
    const { control, interval, service = '', timeout } = this.#flags
    while (!signal.aborted) {
      try {
        this.#status = statusText(narrowAnswer(await statusAt(control, timeout), { control, service }))
      } catch (error) {
        this.#status = FdbError.is(error) ? codeAndMessage(error) : plain(error)
      }
      if (signal.aborted) return
      this.#drawScreen()
      await sleep(interval, undefined, { signal }).catch(() => {})
    }
  }

  /** Several letters at once are no key: pasted text, or a key such as an arrow. */
  readonly #onKeys = (keys: string): void => {
    const { act, state } = stepKey(this.#state, keys)
    this.#state = state
    if (act === 'quit') this.#leave()
    else if (act === 'cancel') this.#order?.kill('SIGINT')
    else if (act === 'start' && state.mode === 'running') this.#start(state.order)
    this.#drawScreen()
  }

  /** Runs the command of an order, as an operator would. */
  #start(order: Order): void {
    const { control, service } = this.#flags
    const args = [order, '--control', control, ...(service ? ['--service', service] : [])]
    this.#output = [`fd-broker ${args.join(' ')}`]
    const child = spawn(process.execPath, [process.argv[1] ?? '', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#order = child
    for (const stream of [child.stdout, child.stderr])
      createInterface(stream).on('line', line => {
        this.#output = [...this.#output, plain(line)].slice(-OUTPUT_LINES)
        this.#drawScreen()
      })
    const ended = (text: string) => {
      if (this.#order !== child) return
      this.#order = null
      this.#state = WATCHING
      this.#output.push(text)
      this.#drawScreen()
    }
    child.on('error', error => ended(`${order} could not be started: ${error.message}`))
    child.on('close', (code, signal) =>
      ended(code === 0 ? `${order}: done` : `${order} failed (${signal ?? `exit code ${code}`})`),
    )
  }

  #drawScreen(): void {
    if (this.#left.signal.aborted) return
    const { columns = 80, rows = 24 } = process.stdout
    const { control, service } = this.#flags
    const title = `fd-broker top: ${plain(service || control)}, ${new Date().toLocaleTimeString('en-GB')}`
    const lines = screenLines({
      title,
      status: this.#status,
      output: this.#output,
      state: this.#state,
      columns,
      rows,
    })
    process.stdout.write(`\x1b[H${lines.map(line => `${line}\x1b[K`).join('\r\n')}\x1b[J`)
  }
}
