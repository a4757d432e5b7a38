import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { PidNamespace } from '../processes/namespace.js'
import * as operator from '../processes/operator.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

/** A program whose first process is PID 1 of a container, or is started by PID 1. */
async function contained(wrap: readonly string[] = [], probation = '0') {
  const program = await AutoProgram.of(`import http from 'node:http'
const server = http.createServer((request, response) => {
  if (request.url === '/exit') process.exit(7)
  response.end('pid ' + process.pid)
}).listen(8080)
process.on('SIGTERM', () => server.close(() => process.exit(0)))
`)
  const { env, log } = program.sandbox
  const container = await PidNamespace.start(
    [...wrap, ...program.words('import', { FD_BROKER_PROBATION: probation }, [])],
    {
      env,
      log,
    },
  )
  await program.serves(1)
  return { program, container }
}

it.runIf(NIGHTLY)(
  'PID 1 of a container keeps its place when a program under fd-broker/auto is upgraded there, and TERM ends all',
  async () => {
    const { program, container } = await contained()
    for (const generation of [2, 3]) {
      await program.command('upgrade')
      await program.serves(generation)
    }
    await until('a successor answers', async () => {
      const answer = await (await fetch(program.url, { headers: { connection: 'close' } })).text()
      return /^pid (?!1$)\d+$/.test(answer) || null
    })
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
  },
)

it.runIf(NIGHTLY)(
  'PID 1 of a container that serves again after a rollback ends with its program, with the same code',
  async () => {
    const { program, container } = await contained([], '60s')
    for (let round = 0; round < 2; round++) {
      await program.command('upgrade')
      await program.command('rollback')
      await until('PID 1 answers', async () => {
        const answer = await fetch(program.url, { headers: { connection: 'close' } })
        return (await answer.text()) === 'pid 1' || null
      })
    }
    await fetch(`${program.url}/exit`).catch(() => {})
    expect(await container.exit, program.output).toBe(7)
  },
)

/** Ends with its last command, as npm does with its script. */
const SHELL = ['sh', '-c', '"$@"; exit $?', 'sh']

it.runIf(NIGHTLY)(
  'the first process in a container that would end with it keeps its place, in 3 MiB, passes TERM on, and leaves no zombie',
  async () => {
    const { program, container } = await contained(SHELL)
    const { pid: first } = await operator.status(program.control)
    for (const generation of [2, 3]) {
      await program.command('upgrade')
      await program.serves(generation)
    }
    const outside = container.outside(first)
    await until('it waits without Node', () => {
      const kib = /^VmRSS:\s+(\d+)/m.exec(procText(outside, 'status'))?.[1]
      return Number(kib) < 3 * 1024
    })
    await until('the version between has been reaped', () =>
      [...container.processes.values()].every(pid => !/^State:\s+Z/m.test(procText(pid, 'status'))),
    )
    expect([...container.processes.keys()]).toEqual(expect.arrayContaining([1, first]))
    container.signal('SIGTERM', first)
    expect(await container.exit).toBe(0)
  },
)

it.runIf(NIGHTLY)(
  'a TERM that comes while PID 1 becomes the command that keeps its place ends all, too',
  async () => {
    const { program, container } = await contained()
    const upgraded = program.sandbox.run('upgrade', '--control', program.control)
    while (!procText(container.init, 'cmdline').includes('\0keep\0')) await nextTurn()
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
    await upgraded
  },
)
