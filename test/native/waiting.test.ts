import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { addonFile } from '../../src/kernel/addon.js'
import { requireAddon } from '../../src/kernel/index.js'
import { bundled } from '../processes/bundled.js'
import { until } from '../processes/until.js'

const PROGRAM =
  'const { env } = process; console.log(env.FD_BROKER_WAITED, env.FD_BROKER_WAITS, env.FD_BROKER_SENT)'
const TERM = 1n << 14n

function started(child: ChildProcess): ChildProcess {
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

/** A process for whose end another one waits. */
async function endless(): Promise<ChildProcess> {
  const { LD_PRELOAD: _, ...env } = process.env
  const awaited = started(spawn('sleep', ['600'], { stdio: 'ignore', env }))
  await once(awaited, 'spawn')
  return awaited
}

/** Waits until the process waits, and returns the text that it prints later. */
async function textOf(child: ChildProcess): Promise<() => string> {
  let said = ''
  child.stdout?.setEncoding('utf8').on('data', text => {
    said += text
  })
  await until('it waits', () => (blocked(child.pid!) & TERM) !== 0n, 60_000)
  return () => said
}

/** Starts a process that waits for another one, and returns both, and the text that the first one prints. */
async function waiting(control?: string) {
  requireAddon()
  const { LD_PRELOAD: sanitizer, ...env } = process.env
  const awaited = await endless()
  const preloaded = sanitizer === undefined ? addonFile() : `${sanitizer} ${addonFile()}`
  const child = started(
    spawn(process.execPath, ['-e', PROGRAM, '--', ...(control === undefined ? [] : ['--control', control])], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...env, NODE_OPTIONS: '', LD_PRELOAD: preloaded!, FD_BROKER_WAITS: `${awaited.pid}` },
    }),
  )
  return { awaited, child, said: await textOf(child) }
}

function controlPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-waiting-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return join(folder, 'control')
}

/** A process that accepts at a path, and the path. */
async function accepting(): Promise<{ control: string; next: ChildProcess }> {
  const path = controlPath()
  const listen = `require('net').createServer().listen(process.argv[1], () => console.log('listens'))`
  const child = started(
    spawn(process.execPath, ['-e', listen, path], { stdio: ['ignore', 'pipe', 'inherit'] }),
  )
  await once(child.stdout!, 'data')
  return { control: path, next: child }
}

/** Pids of the processes that a process watches by pidfds. */
const watched = (pid: number) =>
  readdirSync(`/proc/${pid}/fdinfo`).flatMap(fd => {
    const [, other] = /^Pid:\s+(\d+)/m.exec(infoOf(pid, fd)) ?? []
    return other === undefined ? [] : [Number(other)]
  })

/** Empty for a descriptor that the process has closed since it was listed. */
function infoOf(pid: number, fd: string): string {
  try {
    return readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

const blocked = (pid: number) =>
  BigInt(`0x${/^SigBlk:\s+(\w+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]}`)

describe('a process that waits before Node starts', () => {
  it('executes its program when the other one has ended, and names it', async () => {
    const { awaited, child, said } = await waiting()
    awaited.kill('SIGKILL')
    await once(child, 'close')
    expect(said()).toBe(`${awaited.pid} undefined undefined\n`)
  })

  it('passes an order to the other process, and tells its own program of it', async () => {
    const { awaited, child, said } = await waiting()
    const ended = [once(awaited, 'exit'), once(child, 'close')]
    child.kill('SIGTERM')
    expect(await Promise.all(ended)).toEqual([
      [null, 'SIGTERM'],
      [0, null],
    ])
    expect(said()).toBe(`${awaited.pid} undefined 15\n`)
  })

  it('waits for the process that accepts at the control socket when the other one has ended', async () => {
    const { control, next } = await accepting()
    const { awaited, child, said } = await waiting(control)
    awaited.kill('SIGKILL')
    await until('it waits for the next one', () => watched(child.pid!).includes(next.pid!))
    const ended = once(child, 'close')
    next.kill('SIGKILL')
    await ended
    expect(said()).toBe(`${next.pid} undefined undefined\n`)
  })

  it('passes an order to the process that accepts at the control socket, although the other one lives', async () => {
    const { control, next } = await accepting()
    const { awaited, child, said } = await waiting(control)
    const ended = [once(next, 'exit'), once(child, 'close')]
    child.kill('SIGTERM')
    expect(await Promise.all(ended)).toEqual([
      [null, 'SIGTERM'],
      [0, null],
    ])
    expect(said()).toBe(`${next.pid} undefined 15\n`)
    expect(awaited.signalCode).toBe(null)
  })

  it('passes an order to the other process, although it has called listen() last itself, in an earlier program', async () => {
    const awaited = await endless()
    const { file, env } = bundled('host-listens-and-waits.ts')
    const words = [file, controlPath(), `${awaited.pid}`, PROGRAM]
    const child = started(spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'], env }))
    const said = await textOf(child)
    await until('it waits for the other one', () => watched(child.pid!).includes(awaited.pid!))
    child.kill('SIGTERM')
    await once(child, 'close')
    expect(said()).toBe(`${awaited.pid} undefined 15\n`)
    await until('the other one has ended', () => awaited.signalCode === 'SIGTERM')
  })
})
