import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** `fd-broker` that cannot write more than 1 KiB into a file. */
const LIMITED = ['sh', '-c', 'ulimit -S -f "$1"; shift; exec "$@"', 'sh', '2']
const LINE = `${'a'.repeat(99)}\n`
const FULL = 'this log could not be written: EFBIG: file too large, write'

/** The process that writes a log; its file need not exist. */
class Writer {
  readonly folder = mkdtempSync(join(tmpdir(), 'fdb-write-log-'))
  readonly path: string
  readonly #process

  constructor(name = 'log', size = '10M', before: readonly string[] = []) {
    this.path = join(this.folder, name)
    const [file = '', ...words] = [...before, process.execPath, CLI, 'write-log', '--file', this.path]
    this.#process = spawn(file, [...words, '--size', size], { stdio: ['pipe', 'inherit', 'inherit'] })
    onTestFinished(() => {
      this.#process.kill('SIGKILL')
      rmSync(this.folder, { recursive: true, force: true })
    })
  }

  get text(): string {
    return existsSync(this.path) ? readFileSync(this.path, 'utf8') : ''
  }

  /** Resolves when the process has started, which takes its time on a busy machine, and has had time to read it. */
  async write(text: string): Promise<void> {
    await until('the process handles SIGHUP', () => {
      const status = readFileSync(`/proc/${this.#process.pid}/status`, 'latin1')
      return (BigInt(`0x${/^SigCgt:\s*(\w+)/m.exec(status)![1]}`) & 1n) !== 0n
    })
    this.#process.stdin.write(text)
    await sleep(100)
  }

  async shows(text: string): Promise<void> {
    await until(
      'the log has the text',
      () => this.text === text || null,
      10_000,
      () => this.text,
    )
  }

  async end(): Promise<void> {
    this.#process.stdin.end()
    const [code] = await once(this.#process, 'exit')
    expect(code).toBe(0)
  }
}

describe('the process that writes a log', () => {
  it('goes on when there is room again, and reports how much is missing', async () => {
    const writer = new Writer('log', '10M', LIMITED)
    await writer.write(LINE.repeat(10))
    await writer.shows(LINE.repeat(10))
    await writer.write(LINE.repeat(2))
    await writer.shows(LINE.repeat(10) + LINE.slice(0, 24))
    await writer.write(LINE)
    await sleep(1_500)
    expect(writer.text).toBe(LINE.repeat(10) + LINE.slice(0, 24))
    renameSync(writer.path, join(writer.folder, 'full'))
    await writer.write(LINE)
    await writer.end()
    expect(writer.text).toMatch(
      new RegExp(`^\\nfd-broker: at least \\d+ bytes are missing here: ${FULL}\\n${LINE}$`),
    )
  })

  it('goes on at the beginning of a line', async () => {
    const writer = new Writer('log', '10M', LIMITED)
    await writer.write(LINE.repeat(10))
    await writer.write(LINE)
    await writer.shows(LINE.repeat(10) + LINE.slice(0, 24))
    await writer.write(LINE.slice(0, 50))
    await sleep(500)
    rmSync(writer.path)
    await sleep(1_500)
    await writer.write(`${LINE.slice(50)}next\n`)
    await writer.end()
    expect(writer.text).toMatch(
      new RegExp(`^\\nfd-broker: at least \\d+ bytes are missing here: ${FULL}\\nnext\\n$`),
    )
  })

  it('goes on when the file can be opened', async () => {
    const writer = new Writer('folder/log')
    writeFileSync(join(writer.folder, 'folder'), '')
    await writer.write('lost\n')
    await sleep(500)
    expect(readdirSync(writer.folder)).toEqual(['folder'])
    rmSync(join(writer.folder, 'folder'))
    await sleep(1_000)
    await writer.write('next\n')
    await writer.end()
    expect(writer.text).toMatch(
      /^\nfd-broker: at least 5 bytes are missing here: this log could not be written: E.*\nnext\n$/,
    )
  })

  it('rotates the file, and keeps five old ones', async () => {
    const writer = new Writer('log', '100B')
    for (let count = 0; count < 8; count++) {
      await writer.write(`${count} ${LINE}`)
      const rotated = `${writer.path}.1`
      await until(
        'it is rotated',
        () => existsSync(rotated) && readFileSync(rotated, 'utf8').startsWith(`${count} `),
      )
    }
    await writer.end()
    expect(readdirSync(writer.folder).sort()).toEqual([
      'log',
      ...[1, 2, 3, 4, 5].map(count => `log.${count}`),
    ])
    expect(readFileSync(`${writer.path}.5`, 'utf8')).toBe(`3 ${LINE}`)
  })
})
