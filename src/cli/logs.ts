import { existsSync, realpathSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { defaultLog, generationLog } from '../auto/log-files.js'
import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import { isDaemon } from '../operator/status-report.js'
import { lookupPaths } from '../os/default-control.js'
import { addServiceOptions } from './find-service.js'

const ANSWER_MS = 2_000
/** Interval at which a followed file is read. */
const LOOK_MS = 200
/** Bytes of one read when searching backwards from the end. */
const BLOCK = 64 * 1024
const NEWLINE = 10

interface LogsFlags {
  readonly control?: string
  readonly service?: string
  readonly logFile?: string
  readonly generation?: number
  readonly lines: number
  readonly follow?: true
}

export function addLogs(program: Command): void {
  addServiceOptions(
    program.command('logs').description('show the output of a program started by fd-broker start'),
    asked => asked.opts<LogsFlags>().logFile !== undefined || asked.opts<LogsFlags>().service !== undefined,
  )
    .option('-f, --follow', 'print new output too, also of later versions')
    .addOption(
      new Option(
        '--generation <number>',
        'output of this version; default: of the serving or last one',
      ).argParser(count),
    )
    .addOption(
      new Option('-n, --lines <number>', 'number of last lines to print').argParser(count).default(100),
    )
    .option('--log-file <file>', 'log file that was given to fd-broker start')
    .addHelpText(
      'after',
      `
Examples:
  $ fd-broker logs --service shop
  $ fd-broker logs --service shop --follow
  $ fd-broker logs --service shop --generation 3 --lines 1000`,
    )
    .action(logs)
}

function count(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('Give a number.')
}

async function logs(flags: LogsFlags): Promise<void> {
  const { generation, lines, follow } = flags
  const log = await logPath(flags)
  const path = generation === undefined ? log : generationLog(log, generation)
  if (!existsSync(path)) {
    const what = generation === undefined ? 'it' : `generation ${generation}`
    throw new FdbError(
      'ERR_FDB_OPTION',
      `there is no log ${path}: ${what} was not started by fd-broker start, or its log is too old; give --log-file`,
    )
  }
  const shown = new FollowedFile()
  await shown.lastLines(path, lines)
  while (follow) {
    await sleep(LOOK_MS)
    await shown.more(path)
  }
  await shown.close()
}

async function logPath({ control, service, logFile }: LogsFlags): Promise<string> {
  if (logFile !== undefined) return logFile
  const { env } = process
  const controlPath =
    control ?? (service === undefined ? undefined : lookupPaths(service, env).find(existsSync))
  const running = controlPath === undefined ? null : await logOfRunning(controlPath)
  const name = running?.service ?? service ?? ''
  return running?.log ?? defaultLog(name, env)
}

/** Returns null if the service does not answer. */
async function logOfRunning(control: string): Promise<{ service?: string; log?: string } | null> {
  try {
    const answer = await statusAt(control, ANSWER_MS)
    if (isDaemon(answer)) return {}
    const { log } = answer.details ?? {}
    return { ...(answer.service && { service: answer.service }), ...(typeof log === 'string' && { log }) }
  } catch {
    return null
  }
}

/** The file that is shown, and the position read so far. */
class FollowedFile {
  #handle: FileHandle | null = null
  #real = ''
  #at = 0

  async lastLines(path: string, lines: number): Promise<void> {
    const { size } = await this.#open(path)
    const blocks: Buffer[] = []
    let found = 0
    let from = size
    while (from > 0 && found <= lines) {
      const start = Math.max(0, from - BLOCK)
      const block = await this.#read(start, from - start)
      found += block.reduce((sum, byte) => sum + (byte === NEWLINE ? 1 : 0), 0)
      blocks.unshift(block)
      from = start
    }
    const text = Buffer.concat(blocks).toString()
    const whole = text.endsWith('\n') ? text.slice(0, -1).split('\n') : text.split('\n')
    const last = lines === 0 || text === '' ? [] : whole.slice(-lines)
    if (last.length > 0) process.stdout.write(`${last.join('\n')}\n`)
    this.#at = size
  }

  /** Prints what was appended. After a rotation or an upgrade the path names another file: prints the remainder of this one first. */
  async more(path: string): Promise<void> {
    await this.#printRemainder()
    const inode = (await this.#handle!.stat()).ino
    const now = await open(path).catch(() => null)
    if (now === null) return
    const same = (await now.stat()).ino === inode
    await now.close()
    if (same) return
    await this.#printRemainder()
    const before = this.#real
    await this.#open(path)
    if (this.#real !== before) process.stdout.write(`==> ${this.#real} <==\n`)
    await this.#printRemainder()
  }

  async close(): Promise<void> {
    await this.#handle?.close()
  }

  async #open(path: string): Promise<{ size: number }> {
    await this.close()
    this.#handle = await open(path)
    this.#real = realpathSync(path)
    this.#at = 0
    return await this.#handle.stat()
  }

  async #printRemainder(): Promise<void> {
    for (;;) {
      const block = await this.#read(this.#at, BLOCK)
      if (block.length === 0) return
      this.#at += block.length
      process.stdout.write(block)
    }
  }

  async #read(at: number, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(length)
    const { bytesRead } = await this.#handle!.read(buffer, 0, length, at)
    return buffer.subarray(0, bytesRead)
  }
}
