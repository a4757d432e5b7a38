import { constants, existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { SILENT } from '../base/logger.js'
import { wrongOption } from '../checks/place.js'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { eventPath } from '../events/event-file.js'
import { EventLog } from '../events/event-log.js'
import {
  EVENTS_COMMAND,
  type EventPage,
  eventsBody,
  readEventPage,
  type ServiceEvent,
} from '../events/events.js'
import type { Requester } from '../events/requester.js'
import { openFile } from '../kernel/index.js'
import { askAgain } from '../operator/ask-again.js'
import { OperatorClient } from '../operator/client.js'
import { lookupPaths } from '../os/default-control.js'
import { type AnswerFlags, IDEMPOTENT_RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions, findControl } from './find-service.js'
import { plain, style, writeStderr } from './output.js'
import { LineWriter } from './state-lines.js'

interface EventFlags extends AnswerFlags {
  follow?: true
  from?: string
}

/** How often `--follow` asks for new events. */
const ASK_MS = 200
/** No process of the service runs, or a daemon that was started again waits for its members. */
const RESTART_CODES: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_NO_HOLDER',
  'ERR_FDB_SERVICE',
])

export function addEvents(program: Command): void {
  addAskOptions(program.command('events').description('print the phases and decisions of upgrades'))
    .option('--follow', 'wait for further events; without --from print only these')
    .option('--from <number>', 'begin with the event of this number')
    .notes(`A service keeps its last 1,000 events over all its versions. With --json each event is a line of JSON. --follow ends if no process of the service
answers within --timeout. On stderr: how many of the wanted events are not kept any more.`)
    .examples('fd-broker events --service shop', 'fd-broker events --follow --json --from 1')
    .action((flags: EventFlags) => printEvents(flags))
}

export function addHistory(program: Command): void {
  const command = program.command('history')
  // A service that does not run has a history too.
  addAskOptions(command.description('print the last 1,000 events, as fd-broker events'), () => true)
    .notes(
      `If no process of the service runs, prints what its processes have left beside the control socket.`,
    )
    .examples('fd-broker history --service shop', 'fd-broker history --control /run/shop/upgrade.sock')
    .action(printHistory)
}

async function printHistory(flags: EventFlags, command: Command): Promise<void> {
  try {
    await printEvents({ ...flags, control: findControl(command) })
  } catch (error) {
    const left = FdbError.is(error) && RESTART_CODES.has(error.code) ? leftEvents(flags) : null
    if (left === null) throw error
    writeStderr(`no process of the service runs: these are the events that it has left in ${left.path}`)
    await printEvents(flags, left)
  }
}

/** Returns the events that the processes of a service have left, or null. */
function leftEvents({
  control = process.env.FD_BROKER_CONTROL,
  service,
}: Partial<EventFlags>): LeftEvents | null {
  const places =
    control !== undefined ? [control] : service === undefined ? [] : lookupPaths(service, process.env)
  for (const place of places)
    for (const path of [eventPath(place, service), eventPath(place)]) {
      if (!existsSync(path)) continue
      const left = new LeftEvents(path)
      // The file of a daemon has its own events too.
      if (left.isOf(service)) return left
      left[Symbol.dispose]()
    }
  return null
}

async function printEvents(
  { follow, from: text, json, ...flags }: EventFlags,
  source?: PageSource,
): Promise<void> {
  using service = source ?? new EventSource(flags, follow === true)
  const out = new LineWriter()
  const wanted = text === undefined ? null : firstNumber(text)
  let at = wanted ?? (follow ? (await service.page(Number.MAX_SAFE_INTEGER)).next : 1)
  let known = ''
  for (let asked = wanted !== null || follow === true; ; ) {
    const { log, events, first, next, end } = await service.page(at)
    if (known !== '' && log !== '' && log !== known) {
      writeStderr('the service was started again: its events begin again at 1')
      known = log
      at = 1
      continue
    }
    known = log || known
    if (asked && first > at)
      writeStderr(`${first - at} events, from ${at} to ${first - 1}, are not kept any more`)
    for (const event of events) await out.write(json ? event : lineOf(event))
    await out.flush()
    if (out.isClosed || (end && !follow)) return
    at = Math.max(at, next)
    asked = true
    if (end) await sleep(ASK_MS)
  }
}

function firstNumber(text: string): number {
  const number = /^\d{1,15}$/.test(text) ? Number(text) : 0
  if (number >= 1) return number
  throw wrongOption('--from', text, 'the number of an event, at least 1')
}

interface PageSource extends Disposable {
  page(from: number): Promise<EventPage> | EventPage
}

/** The file of a service of which no process runs. */
class LeftEvents implements PageSource {
  readonly path: string
  readonly #log = new EventLog(SILENT, { service: '', generation: 0 })

  constructor(path: string) {
    this.path = path
    // A FIFO at this path must not wait for a writer.
    this.#log.adopt(openFile(path, constants.O_RDONLY | constants.O_NONBLOCK, `the events ${path}`))
  }

  isOf(service: string | undefined): boolean {
    return service === undefined || this.page(1).events.some(event => event.service === service)
  }

  page(from: number): EventPage {
    return this.#log.read(from)
  }

  [Symbol.dispose](): void {
    this.#log.close()
  }
}

/** Asks the process that serves, over one connection while it stays. */
class EventSource implements PageSource {
  readonly #flags: Omit<AnswerFlags, 'json'>
  readonly #follows: boolean
  /** The service has answered: an error of {@link RESTART_CODES} means that it is being started again. */
  #found = false
  #client: OperatorClient | null = null

  constructor(flags: Omit<AnswerFlags, 'json'>, follows: boolean) {
    this.#flags = flags
    this.#follows = follows
  }

  page(from: number): Promise<EventPage> {
    const { control, service = '', timeout } = this.#flags
    const mayRetry = ({ code, retryable }: FdbError) =>
      (IDEMPOTENT_RETRY_CODES.has(code) && retryable) ||
      (this.#follows && this.#found && RESTART_CODES.has(code))
    return askAgain(timeout, mayRetry, async left => {
      try {
        this.#client ??= await OperatorClient.connect(control, { timeout: left })
        const ask = { timeout: left, service }
        const page = readEventPage(await this.#client.command(EVENTS_COMMAND, eventsBody(from), ask))
        this.#found = true
        return page
      } catch (error) {
        this[Symbol.dispose]()
        throw error
      }
    })
  }

  [Symbol.dispose](): void {
    this.#client?.close()
    this.#client = null
  }
}

function lineOf({ number, at, type, pid, generation, ...facts }: ServiceEvent): string {
  const { process: other, epoch, phase, code, reason, counts, hook, by } = facts
  const parts = [
    `${number}`.padStart(5),
    timeOf(at),
    style(code === undefined && !type.endsWith('.failed') ? 'bold' : 'red', plain(type)),
    `by process ${plain(pid)} (generation ${plain(generation)})`,
    other === undefined ? '' : `about process ${plain(other)}`,
    epoch === undefined ? '' : `epoch ${plain(epoch)}`,
    by === undefined ? '' : `ordered by ${requesterText(by)}`,
    counts === undefined ? '' : countsText(counts),
    phase === undefined ? '' : `in phase ${plain(phase)}`,
    hook === undefined ? '' : `hook ${plain(hook)}`,
    reason === undefined ? '' : `${code === undefined ? '' : `${plain(code)}: `}${plain(reason)}`,
  ]
  return parts.filter(part => part !== '').join('  ')
}

function timeOf(at: number): string {
  return Number.isFinite(at) && Math.abs(at) < 8e15 ? new Date(at).toISOString() : plain(at)
}

function requesterText({ uid, gid, pid, executable }: Requester): string {
  const group = gid === undefined ? '' : `, gid ${plain(gid)}`
  return `uid ${plain(uid)}${group} (pid ${plain(pid)}${executable === undefined ? '' : `, ${plain(executable)}`})`
}

function countsText(counts: Readonly<Record<string, number>>): string {
  const pairs = Object.entries(counts).map(([name, count]) => `${plain(count)} ${plain(name)}`)
  return pairs.length === 0 ? '' : `connections: ${pairs.join(', ')}`
}
