import { existsSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { signalPid } from '../processes/launch.js'
import { handles } from '../processes/marked.js'
import { PidNamespace } from '../processes/namespace.js'
import * as operator from '../processes/operator.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** Cleans up, and ends the process only if no other code listens: each waits for the other if there are two such. */
const LAST = `for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, async () => {
  await new Promise(resolve => setTimeout(resolve, 50))
  console.log('cleaned up')
  if (process.listenerCount(signal) === 0) process.exit(0)
})
`
/** As packages that run code at the exit of a process: if theirs are the only listeners, they remove them, and send the signal again. */
const AGAIN = `for (const signal of ['SIGINT', 'SIGTERM']) {
  const listener = () => {
    if (process.listeners(signal).length > 1) return
    process.off(signal, listener)
    console.log('cleaned up')
    process.kill(process.pid, signal)
  }
  process.on(signal, listener)
}
`
const SOON = { FD_BROKER_PROBATION: '0' }
/** A process has this time before a timeout of fd-broker would end it (2 s). */
const AT_ONCE_MS = 1_000
/** A program that handles a signal at once has done so after this time. */
const HEARD_MS = 300

async function endsAtOnce(program: AutoProgram, pid: number, signal: NodeJS.Signals): Promise<void> {
  const begin = performance.now()
  signalPid(pid, signal)
  await program.ends(pid)
  expect(performance.now() - begin).toBeLessThan(AT_ONCE_MS)
  await expect(fetch(program.url)).rejects.toThrow()
}

describe('under fd-broker/auto a signal ends the program as without it,', () => {
  for (const [how, library] of Object.entries({
    'without a handler': '',
    'if a library ends the process only if no other code listens': LAST,
    'if a library removes its listener and sends the signal again': AGAIN,
  }))
    it.each(perLane<readonly NodeJS.Signals[]>(['SIGTERM'], SIGNALS))(
      `${how}: %s, before and after an upgrade`,
      async signal => {
        const program = await AutoProgram.of(`${library}${SERVER}`)
        const alone = await program.serve('import', 1, SOON)
        await endsAtOnce(program, alone, signal)
        const first = await program.serve('import', 1, SOON)
        const second = await program.serve('import', 2, SOON)
        await program.ends(first)
        await endsAtOnce(program, second, signal)
        // The replaced version has called its handler, too.
        expect(program.output).toBe('cleaned up\n'.repeat(library === '' ? 0 : 3))
      },
    )
})

it.runIf(NIGHTLY)(
  'under fd-broker/auto TERM ends the service of a program that serves again after a rollback',
  async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve('import', 1)
    await program.serve('import', 2)
    expect(await program.sandbox.run('rollback', '--control', program.control)).toMatchObject({ code: 0 })
    await endsAtOnce(program, first, 'SIGTERM')
    expect(existsSync(program.control)).toBe(false)
  },
)

describe('under fd-broker/auto a program that leaves its service ends at TERM', () => {
  const LEAVES = SERVER.replace('http.', 'const server = http.').replace(
    'response.end(',
    "request.url === '/leave' ? leave() : response.end(",
  )

  it('if the signal arrives just before it leaves', async () => {
    const leave = "() => { process.kill(process.pid, 'SIGTERM'); server.close() }"
    const program = await AutoProgram.of(`${LEAVES}const leave = ${leave}\nsetInterval(() => {}, 60_000)\n`)
    const pid = await program.serve()
    await fetch(`${program.url}/leave`).catch(() => {})
    await program.ends(pid)
  })

  it.runIf(NIGHTLY)('at any moment of that', async () => {
    const program = await AutoProgram.of(
      `${LEAVES}const leave = () => server.close()\nsetInterval(() => {}, 60_000)\n`,
    )
    for (let round = 0; round < 20; round++) {
      const pid = await program.serve()
      const left = fetch(`${program.url}/leave`).catch(() => {})
      for (let turn = 0; turn < 2 * round; turn++) await new Promise(setImmediate)
      signalPid(pid, 'SIGTERM')
      await program.ends(pid)
      await left
    }
  })
})

it('under fd-broker/auto a second TERM ends a program that waits for its next version', async () => {
  const program = await AutoProgram.of(SERVER)
  const pid = await program.serve()
  program.write('server.mjs', 'setInterval(() => {}, 60_000)\n')
  const upgrade = program.sandbox.run('upgrade', '--control', program.control)
  await program.statusWhere('the next version starts', ({ upgrade }) => upgrade != null)
  signalPid(pid, 'SIGTERM')
  await until('it handles TERM no more', () => !handles(pid, 'SIGTERM') || null)
  expect(await operator.status(program.control)).toMatchObject({ pid, role: 'serving' })
  signalPid(pid, 'SIGTERM')
  await program.ends(pid)
  expect((await upgrade).code).not.toBe(0)
})

it('under fd-broker/auto a program hears of TERM when its next version has failed, not before, each time', async () => {
  const program = await AutoProgram.of(`${SERVER}process.on('SIGTERM', () => console.log('at TERM'))\n`)
  const pid = await program.serve()
  program.write(
    'server.mjs',
    `import { existsSync } from 'node:fs'\nsetInterval(() => existsSync('end') && process.exit(1), 20)\n`,
  )
  const heard = () => program.output.split('at TERM').length - 1
  for (let time = 1; time <= 3; time++) {
    rmSync(program.path('end'), { force: true })
    const upgrade = program.sandbox.run('upgrade', '--control', program.control)
    await program.statusWhere('the next version starts', ({ upgrade }) => upgrade != null)
    signalPid(pid, 'SIGTERM')
    await sleep(HEARD_MS)
    expect(heard()).toBe(time - 1)
    program.write('end', '')
    expect((await upgrade).code).not.toBe(0)
    await until('the program hears it', () => heard() === time)
  }
})

it('under fd-broker/auto a program sees no listener of a signal but its own, serving and replaced', async () => {
  const program = await AutoProgram.of(`${SERVER}
const facts = () => JSON.stringify(['SIGINT', 'SIGTERM'].map(signal => process.listenerCount(signal)))
process.on('SIGUSR2', () => console.log(facts(), process.eventNames().filter(name => /^SIG/.test(name)).join()))
`)
  const first = await program.serve()
  const second = await program.serve('import', 2)
  for (const [n, pid] of [first, second].entries()) {
    signalPid(pid, 'SIGUSR2')
    await until('it says so', () => program.output.split('\n').length === n + 2 || null)
  }
  expect(program.output).toBe('[0,0] SIGUSR2\n'.repeat(2))
})

interface Contained {
  readonly upgrades: number
  readonly env?: Readonly<Record<string, string>>
}

describe('as PID 1 of a container under fd-broker/auto', () => {
  /** Two generations in a container: PID 1 is the first. */
  async function contained(library: string, { upgrades, env: variables = SOON }: Contained) {
    const program = await AutoProgram.of(`${library}${SERVER}`)
    const { env, log } = program.sandbox
    const container = await PidNamespace.start(program.words('import', variables, []), { env, log })
    await program.serves(1)
    for (let generation = 2; generation <= 1 + upgrades; generation++) {
      await program.command('upgrade')
      await program.serves(generation)
    }
    return { program, container }
  }

  it('a program without a handler, which the kernel would not end, ends at TERM', async () => {
    const { container } = await contained('', { upgrades: 0 })
    container.signal('SIGTERM')
    expect(await container.exit).toBe(143)
  })

  it.each([
    ['ends the process only if no other code listens', LAST, 0],
    ['sends the signal again', AGAIN, 143],
  ])(
    'a replaced program with a library that %s keeps the container, until TERM ends all',
    async (_how, library, code) => {
      const { program, container } = await contained(library, { upgrades: 1 })
      await until('PID 1 has ended its program', () => program.output.includes('cleaned up') || null)
      const { pid } = await operator.status(program.control)
      await program.answeredBy(pid)
      container.signal('SIGTERM')
      expect(await container.exit).toBe(code)
    },
  )

  it.runIf(NIGHTLY)(
    'a signal that has just arrived when a replaced program exits ends the service',
    async () => {
      const exits = `import { spawnSync } from 'node:child_process'
process.once('SIGTERM', () => {
  if (process.pid === 1) spawnSync('sh', ['-c', 'kill -TERM 1'])
  process.exit()
})
`
      const { program, container } = await contained(exits, { upgrades: 0 })
      // The next version may end before the answer is here.
      await program.sandbox.run('upgrade', '--control', program.control)
      expect(await container.exit).toBe(0)
    },
  )

  it('a signal at which a program that stands by exits by its own handler ends the service', async () => {
    const exits = `process.on('SIGTERM', () => {
  console.log(process.pid + ' exits')
  setImmediate(() => process.exit())
})
`
    const { program, container } = await contained(exits, { upgrades: 1, env: {} })
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
    expect(program.output.match(/ exits$/gm)).toHaveLength(2)
  })

  it.runIf(NIGHTLY)(
    'a signal that a replaced program has just sent to itself when it exits does not end the service',
    async () => {
      const exits = `process.once('SIGTERM', () => {
  process.kill(process.pid, 'SIGTERM')
  console.log('exits')
  process.exit()
})
`
      const { program, container } = await contained(exits, { upgrades: 1 })
      const { pid } = await operator.status(program.control)
      await until('PID 1 has ended its program', () => program.output.includes('exits') || null)
      await until('PID 1 is the command', () =>
        /\bkeep\b/.test(readFileSync(`/proc/${container.init}/cmdline`, 'latin1')),
      )
      // The command that replaces the program passes each signal on in turn: a signal that was passed on before would have ended that process.
      expect(await (await fetch(program.url, { headers: { connection: 'close' } })).text()).toBe(`pid ${pid}`)
      container.signal('SIGTERM')
      expect(await container.exit).toBe(0)
    },
  )

  it.runIf(NIGHTLY)('a replaced program that still has a client passes TERM on', async () => {
    const { program, container } = await contained(AGAIN, { upgrades: 0 })
    await program.command('upgrade')
    await program.serves(2)
    container.signal('SIGTERM')
    expect(await container.exit).toBe(143)
  })
})
