import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { openFds } from '../processes/descriptors.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const SERVER = `import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
if (process.env.HANDLES) process.on('SIGTERM', () => server.close(() => process.exit(0)))
setInterval(() => console.log('still there'), 50)
`
const SOON = { FD_BROKER_PROBATION: '0', FD_BROKER_EXIT: '1ms' }

interface Terminal {
  readonly script: ChildProcess
  readonly shown: () => string
}

/** Runs it in the foreground of a terminal of its own. */
function onTerminal(
  program: AutoProgram,
  env: Readonly<Record<string, string>> = {},
  words = '',
  shell = (command: string) => `exec ${command}`,
): Terminal {
  const script = spawn(
    'script',
    ['-qefc', shell(`node ${words} --import fd-broker/auto server.mjs`), '/dev/null'],
    { cwd: program.sandbox.folder, env: { ...program.sandbox.env, ...program.place, ...SOON, ...env } },
  )
  onTestFinished(() => {
    script.kill('SIGKILL')
  })
  let shown = ''
  script.stdout.setEncoding('utf8').on('data', text => (shown += text))
  return { script, shown: () => shown }
}

async function refuses({ url }: AutoProgram): Promise<void> {
  await until(`${url} refuses`, () =>
    fetch(url).then(
      () => null,
      () => true,
    ),
  )
}

describe('a program that was started in a terminal', () => {
  it.each(perLane([{ handles: '' }], [{ handles: '' }, { handles: 'yes' }]))(
    'keeps its place there for its successors, which Ctrl-C ends (own handler: $handles)',
    async ({ handles }) => {
      const program = await AutoProgram.of(SERVER)
      const { script } = onTerminal(program, { HANDLES: handles })
      const first = await program.serves(1)
      let serving = first
      for (const generation of perLane([2], [2, 3])) {
        await program.command('upgrade')
        serving = await program.serves(generation)
      }
      await until('a command has its place', () => procText(first, 'cmdline').includes('keep') || null)
      await program.answeredBy(serving)
      const ended = once(script, 'exit')
      script.stdin!.write('\x03')
      await ended
      expect(hasEnded(first)).toBe(true)
      await refuses(program)
    },
  )

  it('passes on a second Ctrl-C that comes while the command that keeps its place still handles the first', async () => {
    const program = await AutoProgram.of(`${SERVER}
let orders = 0
process.on('SIGINT', () => {
  console.log('order ' + ++orders)
  if (orders === 2) process.exit()
})
`)
    const { script, shown } = onTerminal(program)
    const first = await program.serves(1)
    await program.command('upgrade')
    await program.serves(2)
    const waits = () =>
      procText(first, 'cmdline').includes('keep') && /^Threads:\t1$/m.test(procText(first, 'status'))
    await until('the command waits without Node', () => waits() || null)
    const ended = once(script, 'exit')
    signalPid(first, 'SIGINT')
    await until('the program gets the first order', () => shown().includes('order 1') || null)
    signalPid(first, 'SIGINT')
    await ended
    expect(shown()).toContain('order 2')
  })

  it('passes Ctrl-C on while it stands by', async () => {
    const program = await AutoProgram.of(SERVER)
    const { script } = onTerminal(program, { FD_BROKER_PROBATION: '30s' })
    await program.serves(1)
    await program.command('upgrade')
    await program.serves(2)
    await program.statusWhere('the first stands by', ({ draining }) =>
      draining.some(({ phase }) => phase === 'standby'),
    )
    script.stdin!.write('\x03')
    await refuses(program)
  })

  it.runIf(NIGHTLY)(
    'has successors that survive the end of the terminal, and go on writing there',
    async () => {
      const program = await AutoProgram.of(SERVER)
      const { script } = onTerminal(program)
      const first = await program.serves(1)
      await program.command('upgrade')
      const second = await program.serves(2)
      await until('a command has its place', () => procText(first, 'cmdline').includes('keep') || null)
      signalPid(script.pid!, 'SIGKILL')
      await program.ends(first)
      await program.statusWhere('its output is dropped', ({ droppedOutput }) => (droppedOutput ?? 0) > 2)
      await program.answeredBy(second)
    },
  )

  it.runIf(NIGHTLY)(
    'leaves a command there that ends by SIGHUP, and does not abort, when the terminal is closed',
    async () => {
      const program = await AutoProgram.of(SERVER)
      // The shell gets the signal of the kernel, and outlives it.
      const { script } = onTerminal(
        program,
        {},
        '',
        command => `trap '' HUP; ${command}; echo $? >code.new; mv code.new code`,
      )
      const first = await program.serves(1)
      await program.command('upgrade')
      const second = await program.serves(2)
      await until('a command has its place', () => procText(first, 'cmdline').includes('keep') || null)
      await until('it waits for signals', () => openFds(first).includes('anon_inode:[signalfd]') || null)
      const ended = once(script, 'exit')
      signalPid(script.pid!, 'SIGKILL')
      await ended
      signalPid(first, 'SIGHUP')
      await program.ends(first)
      expect(await until('its exit code is known', () => program.read('code') || null)).toBe('129\n')
      await program.answeredBy(second)
    },
  )

  it.runIf(NIGHTLY)(
    'has no inspector that its successor has not: that one gets a free port, and prints it',
    async () => {
      const program = await AutoProgram.of(SERVER)
      const { shown } = onTerminal(program, {}, '--inspect=127.0.0.1:0')
      await program.serves(1)
      const first = /Debugger listening on ws:\/\/127\.0\.0\.1:(\d+)/.exec(shown())![1]!
      program.write('server.mjs', SERVER)
      const other = onTerminal(program, { FD_BROKER_PROBATION: '0' }, `--inspect=127.0.0.1:${first}`)
      await program.serves(2)
      const second = await until(
        'its inspector listens',
        () => /Debugger listening on ws:\/\/127\.0\.0\.1:(\d+)/.exec(other.shown())?.[1],
      )
      expect(other.shown()).toContain('address already in use')
      expect(second).not.toBe(first)
    },
  )
})
