import { type ChildProcess, spawn } from 'node:child_process'
import { openSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { AutoProgram } from '../e2e/auto-program.js'
import { BY_VARIABLE } from '../e2e/wrapped-program.js'
import { ask } from '../processes/client.js'
import { until } from '../processes/until.js'
import { installed } from './installed.js'
import { unexpectedLines } from './unmodified.js'

/** The end may take this much longer than without fd-broker, on a busy machine. */
const LATER_MS = 5_000
const UPGRADES = 3

const answer = `(request, response) => response.end('pid ' + process.pid)`
/** Programs. Each says when it listens, and some at their end. */
const PROGRAMS: Readonly<Record<string, string>> = {
  'node:http': `import http from 'node:http'
http.createServer(${answer}).listen(8080, () => console.log('listens'))
`,
  'handlers of signals': `import http from 'node:http'
const server = http.createServer(${answer}).listen(8080, () => console.log('listens'))
for (const signal of ['SIGINT', 'SIGTERM'])
  process.on(signal, () => {
    console.log('closes')
    server.close(() => process.exit(3))
    server.closeIdleConnections()
  })
`,
  'process.once and an exit code': `import http from 'node:http'
const server = http.createServer(${answer}).listen(8080, () => console.log('listens'))
process.once('SIGTERM', () => { process.exitCode = 7; server.close() })
process.once('SIGINT', () => { process.exitCode = 8; server.close() })
process.on('exit', () => console.log('exits'))
`,
  'signal-exit': `import http from 'node:http'
import { onExit } from 'signal-exit'
onExit(() => console.log('exits'))
http.createServer(${answer}).listen(8080, () => console.log('listens'))
`,
  'a forked child': `import { fork } from 'node:child_process'
import http from 'node:http'
if (process.argv[2] === 'child') process.on('disconnect', () => process.exit())
else {
  fork(process.argv[1], ['child'])
  http.createServer(${answer}).listen(8080, () => console.log('listens'))
}
`,
  'a worker thread and timers': `import http from 'node:http'
import { Worker } from 'node:worker_threads'
new Worker('setInterval(() => {}, 50)', { eval: true })
setInterval(() => {}, 50)
http.createServer(${answer}).listen(8080, () => console.log('listens'))
`,
  express: `import express from 'express'
const app = express()
app.get('/', (_request, response) => response.send('pid ' + process.pid))
app.listen(8080, () => console.log('listens'))
`,
  fastify: `import Fastify from 'fastify'
const app = Fastify()
app.get('/', async () => 'pid ' + process.pid)
app.addHook('onClose', async () => console.log('closes'))
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close().then(() => process.exit(0)))
await app.listen({ port: 8080, host: '::' })
console.log('listens')
`,
  koa: `import Koa from 'koa'
const app = new Koa()
app.use(context => { context.body = 'pid ' + process.pid })
app.listen(8080, () => console.log('listens'))
`,
  hono: `import { serve } from '@hono/node-server'
import { Hono } from 'hono'
const app = new Hono()
app.get('/', context => context.text('pid ' + process.pid))
serve({ fetch: app.fetch, port: 8080 }, () => console.log('listens'))
`,
}

/** Output of the terminal for Ctrl-C, and of npm and npx. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the codes of a terminal
const FROM_TERMINAL = /\^C|\r|.\x1b\[1G\x1b\[0K|^> .*/gmu

let modules = ''
let tools = ''
beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
  tools = installed(fileURLToPath(new URL('wrappers', import.meta.url)))
}, 300_000)

interface Starter {
  readonly words: () => readonly string[]
  readonly terminal?: boolean
}

const TSX = fileURLToPath(import.meta.resolve('tsx/cli'))
const inTerminal = (command: () => string): Starter => ({
  words: () => ['script', '-qefc', command(), '/dev/null'],
  terminal: true,
})

/** How people start it, and end it: by Ctrl-C in a terminal, else by SIGTERM to what they have started. */
const STARTERS: Readonly<Record<string, Starter>> = {
  node: { words: () => ['node', 'server.mjs'] },
  // The signal goes to the shell, which has become the program.
  'sh -c': { words: () => ['sh', '-c', 'exec node server.mjs'] },
  tsx: { words: () => ['node', TSX, 'server.mjs'] },
  'cross-env': {
    words: () => ['node', join(tools, 'cross-env/dist/bin/cross-env.js'), 'A=b', 'node', 'server.mjs'],
  },
  'dotenv-cli': { words: () => ['node', join(tools, 'dotenv-cli/cli.js'), '--', 'node', 'server.mjs'] },
  cron: { words: () => ['setsid', 'sh', '-c', 'exec node server.mjs </dev/null'] },
  'node in a terminal': inTerminal(() => 'exec node server.mjs'),
  'npm start in a terminal': inTerminal(() => 'npm start'),
  'npx in a terminal': inTerminal(() => `npx --no -- node server.mjs`),
  'tsx in a terminal': inTerminal(() => `node ${TSX} server.mjs`),
}

interface End {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly output: readonly string[]
  readonly ms: number
}

/** A program that a starter has started; its output is that of all its processes. */
class Neighbour {
  readonly program: AutoProgram
  readonly #starter: Starter
  readonly #child: ChildProcess
  readonly #exit: Promise<Pick<End, 'code' | 'signal'>>

  static async of(text: string, starter: Starter, env: Readonly<Record<string, string>>): Promise<Neighbour> {
    const program = await AutoProgram.of(text, 'server.mjs', { modules })
    program.write(
      'package.json',
      JSON.stringify({ name: program.name, type: 'module', scripts: { start: 'node server.mjs' } }),
    )
    return new Neighbour(program, starter, env)
  }

  private constructor(program: AutoProgram, starter: Starter, env: Readonly<Record<string, string>>) {
    this.program = program
    this.#starter = starter
    const [command = '', ...args] = starter.words()
    const output = openSync(program.sandbox.log, 'a')
    this.#child = spawn(command, args, {
      cwd: program.sandbox.folder,
      env: { ...program.sandbox.env, ...program.place, ...env },
      stdio: [starter.terminal ? 'pipe' : 'ignore', output, output],
    })
    onTestFinished(() => void this.#child.kill('SIGKILL'))
    this.#exit = new Promise(resolve => this.#child.once('exit', (code, signal) => resolve({ code, signal })))
  }

  /** Ends it as its user would; `serving`: the process that gets the signal in place of what was started. */
  async end(signal: 'SIGINT' | 'SIGTERM', serving?: number): Promise<End> {
    const begun = performance.now()
    if (this.#starter.terminal) this.#child.stdin!.write('\x03')
    else process.kill(serving ?? this.#child.pid!, signal)
    const { code, signal: by } = await this.#exit
    const ms = performance.now() - begun
    await until(
      'no process is left',
      () => this.program.sandbox.processes().length === 0,
      20_000,
      () => this.program.sandbox.processes().join('\n'),
    )
    const output = unexpectedLines({ output: this.program.output.replace(FROM_TERMINAL, '') })
    return { code, signal: by, output: output.toSorted(), ms }
  }
}

/** The end of the same program without fd-broker. */
async function reference(text: string, starter: Starter, signal: 'SIGINT' | 'SIGTERM'): Promise<End> {
  const alone = await Neighbour.of(text, starter, {})
  const { url } = alone.program
  await until('it answers', () => ask(url).answer.then(Boolean, () => false), 20_000)
  return await alone.end(signal)
}

async function asked(url: string, until: AbortSignal): Promise<unknown[]> {
  const failed: unknown[] = []
  while (!until.aborted) {
    await ask(url).answer.catch(error => failed.push(error))
    await pause(3)
  }
  return failed
}

describe.each(Object.entries(STARTERS))('started by %s', (_name, starter) => {
  it.each(Object.entries(PROGRAMS))(
    'a program with %s ends as it does without fd-broker, after three upgrades that refuse nothing',
    async (_what, text) => {
      const signal = starter.terminal ? 'SIGINT' : 'SIGTERM'
      const alone = await reference(text, starter, signal)
      const neighbour = await Neighbour.of(text, starter, BY_VARIABLE)
      const { program } = neighbour
      const pids = [await program.serves(1)]
      const loaded = new AbortController()
      const load = asked(program.url, loaded.signal)
      for (let generation = 2; generation <= UPGRADES + 1; generation++) {
        await program.command('upgrade')
        pids.push(await program.serves(generation))
      }
      loaded.abort()
      expect(await load).toEqual([])
      // At once: replaced versions live on for a while by their timers, and must not get the signal in place of the one that serves.
      const { ms, ...end } = await neighbour.end(signal, starter.terminal ? undefined : pids.at(-1))
      const { ms: aloneMs, ...expected } = alone
      // The first process ends when it is replaced. In a terminal it keeps its place, and ends with 0, or its tool as for Ctrl-C.
      if (!starter.terminal || end.code === 0 || end.code === 130)
        Object.assign(expected, { code: end.code, signal: end.signal })
      const output = expected.output.flatMap(line => Array<string>(UPGRADES + 1).fill(line))
      expect(end).toEqual({ ...expected, output: output.toSorted() })
      expect(ms).toBeLessThan(aloneMs + LATER_MS)
    },
  )
})
