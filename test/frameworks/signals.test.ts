import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { AutoProgram } from '../e2e/auto-program.js'
import { signalPid } from '../processes/launch.js'
import { installed } from './installed.js'

const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
/** A program's use of a package, and the output of each process after its end. */
const LIBRARIES: Readonly<Record<string, readonly [program: string, says: string]>> = {
  'signal-exit 3': [
    "import onExit from 'signal-exit-3'\nonExit(() => console.log('exit hook'))",
    'exit hook\n',
  ],
  'signal-exit 4': [
    "import { onExit } from 'signal-exit'\nonExit(() => console.log('exit hook'))",
    'exit hook\n',
  ],
  'proper-lockfile': [
    "import { lock } from 'proper-lockfile'\nawait lock('.', { lockfilePath: 'lock-' + process.pid })",
    '',
  ],
  execa: ["import { execa } from 'execa'\nexeca('sleep', ['100']).catch(() => {})", ''],
}
const SOON = { FD_BROKER_PROBATION: '0' }
/** A process has this time before a timeout of fd-broker would end it (2 s). */
const AT_ONCE_MS = 1_000
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

async function endsAtOnce(program: AutoProgram, pid: number, signal: NodeJS.Signals): Promise<void> {
  const begin = performance.now()
  signalPid(pid, signal)
  await program.ends(pid)
  expect(performance.now() - begin).toBeLessThan(AT_ONCE_MS)
  await expect(fetch(program.url)).rejects.toThrow()
}

describe.each(Object.entries(LIBRARIES))(
  'under fd-broker/auto a program with %s',
  (_name, [library, says]) => {
    it.each(['SIGTERM', 'SIGINT'] as const)(
      'ends at once at %s, before and after an upgrade',
      async signal => {
        const program = await AutoProgram.of(`${library}\n${SERVER}`, 'server.mjs', { modules })
        await endsAtOnce(program, await program.serve('import', 1, SOON), signal)
        const first = await program.serve('import', 1, SOON)
        const second = await program.serve('import', 2, SOON)
        await program.ends(first)
        await program.answeredBy(second)
        await endsAtOnce(program, second, signal)
        // The replaced version has called its handler, too.
        expect(program.output).toBe(says.repeat(3))
      },
    )
  },
)
