import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, onTestFinished } from 'vitest'
import { openFds } from '../processes/descriptors.js'
import { signalPid } from '../processes/launch.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'
import { AutoProgram, type ProgramOptions } from './auto-program.js'

/** The tool passes the environment on: its processes and the program's are all under fd-broker/auto. */
export const BY_VARIABLE = { NODE_OPTIONS: '--import fd-broker/auto', FD_BROKER_PROBATION: '0' }
/** Writes a line when a signal comes, and one when its cleanup is done, which takes longer than tsx waits for a child that does not answer. */
export const SERVER = `import { appendFileSync } from 'node:fs'
import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
for (const signal of ['SIGINT', 'SIGTERM'])
  process.on(signal, () => {
    appendFileSync('journal', signal + ' ' + process.pid + '\\n')
    server.close()
    setTimeout(() => {
      appendFileSync('journal', 'clean ' + process.pid + '\\n')
      process.exit(0)
    }, 300)
  })
`

/** The journal of the program that got this signal, once, if `replaced` was replaced before. */
export function journalOf(signal: string, pid: number, replaced?: number): string {
  const before = replaced === undefined ? '' : journalOf('SIGTERM', replaced)
  return `${before}${signal} ${pid}\nclean ${pid}\n`
}

/** Upgrades it, and waits until what keeps the place of the first version, which has this pid here, does so without Node. */
export async function upgraded(program: AutoProgram, first: number): Promise<number> {
  await program.command('upgrade')
  const second = await program.serves(2)
  await waitsWithoutNode(first)
  return second
}

/** Waits until the process that keeps the place of a first version does so without Node. */
export async function waitsWithoutNode(pid: number): Promise<void> {
  await until('it waits without Node', () => {
    const status = procText(pid, 'status')
    const kib = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1])
    const sleeps = /^State:\s+S/m.test(status)
    return kib < 3 * 1024 && sleeps && openFds(pid).includes('anon_inode:[signalfd]')
  })
}

/** A program that a tool has started in a terminal; the tool's words go before the program's file. */
export class WrappedProgram {
  readonly program: AutoProgram
  readonly #terminal: ChildProcess

  static async of(
    tool: readonly string[],
    text: string,
    file: string,
    options: ProgramOptions = {},
  ): Promise<WrappedProgram> {
    const program = await AutoProgram.of(text, file, options)
    const env = { ...program.sandbox.env, ...program.place, ...BY_VARIABLE, ...options.env }
    const command = ['exec', 'node', ...tool, file].join(' ')
    const terminal = spawn('script', ['-qefc', command, '/dev/null'], { cwd: program.sandbox.folder, env })
    onTestFinished(() => void terminal.kill('SIGKILL'))
    return new WrappedProgram(program, terminal)
  }

  private constructor(program: AutoProgram, terminal: ChildProcess) {
    this.program = program
    this.#terminal = terminal
  }

  /** Presses Ctrl-C, or sends TERM to the tool, when that generation serves. Then no process is left. Returns its pid, and that of the replaced version. */
  async ended(
    signal: 'SIGINT' | 'SIGTERM',
    generation: 1 | 2,
  ): Promise<{ readonly pid: number; readonly replaced?: number }> {
    const { program } = this
    const first = await program.serves(1)
    const pid = generation === 1 ? first : await upgraded(program, first)
    if (signal === 'SIGINT') this.#terminal.stdin!.write('\x03')
    else signalPid(childOf(this.#terminal.pid!), signal)
    await program.ends(pid)
    await until(
      'no process is left',
      () => program.sandbox.processes().length === 0,
      5_000,
      () => program.sandbox.processes().join('\n'),
    )
    await expect(fetch(program.url)).rejects.toThrow()
    return generation === 1 ? { pid } : { pid, replaced: first }
  }
}

function childOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'))
}
