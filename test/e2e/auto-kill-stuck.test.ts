import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import type { Ran } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
console.log(process.pid + ' starts')
`
const FAILS = `import { writeFileSync } from 'node:fs'
writeFileSync('failed', 'x')
throw new Error('a mistake')
`

/** `fd-broker start server.mjs …` in the program's folder, without a name. */
function start(program: AutoProgram, ...args: string[]): Promise<Ran> {
  const place = `RUNTIME_DIRECTORY=${program.place.RUNTIME_DIRECTORY}`
  const log = ['--log-file', program.path('log/shop.log')]
  return program.sandbox.runCommand([
    ...['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', program.sandbox.folder],
    ...['env', place, process.execPath, CLI, 'start', 'server.mjs', ...log, ...args],
  ])
}

function upgrade(program: AutoProgram, ...args: string[]): Promise<Ran> {
  return program.sandbox.run('upgrade', '--control', program.control, ...args)
}

/** A program that serves as generation 1 and is stopped. */
async function stopped(): Promise<{ program: AutoProgram; hung: number }> {
  const program = await AutoProgram.of(SERVER)
  const { code, stderr } = await start(program)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const hung = await program.serves(1)
  signalPid(hung, 'SIGSTOP')
  return { program, hung }
}

it.runIf(NIGHTLY)(
  'replaces a stopped program without a name of its own, also after a start that gave up',
  async () => {
    const { program, hung } = await stopped()
    const late = await start(program, '--timeout', '3s')
    expect(late.code).toBe(1)
    expect(late.stderr).toMatch(
      new RegExp(
        `^ERR_FDB_DEADLINE: server\\.mjs \\(pid \\d+\\) did not serve within 3000 ms, and was ended: process ${hung}, which listens at \\S+, does not answer .*: fd-broker upgrade --kill-stuck --control ${program.control} kills it `,
      ),
    )
    const asked = await upgrade(program, '--timeout', '500ms')
    expect(asked.code).toBe(1)
    expect(asked.stderr).toMatch(
      new RegExp(`^ERR_FDB_DEADLINE: .*process ${hung} .*fd-broker upgrade --kill-stuck`),
    )
    const { code, stdout, stderr } = await upgrade(program, '--kill-stuck', '--timeout', '20s')
    expect({ code, stderr }, `${stdout}${program.output}`).toEqual({ code: 0, stderr: '' })
    const pid = await program.serves(2)
    expect(stdout).toContain(`generation 2 (pid ${pid}) serves`)
    // The program that gave up has ended: it is no joiner.
    for (const [, joiner] of stdout.matchAll(/ms {2}\w+ +pid (\d+)/g))
      expect(Number(joiner), stdout).toBe(pid)
    expect(hasEnded(hung)).toBe(true)
    await program.answeredBy(pid)
    expect(stdout).toContain(`\nits log is ${program.path('log/shop.log')}\n`)
    await until('it has its own log', () => program.read('log/shop.log') === `${pid} starts\n`)
    expect(program.read('log/shop.generation-1.log')).toBe(`${hung} starts\n`)
    await program.command('upgrade')
    await program.command('stop')
  },
)

it('starts a next version that fails again until it serves, and keeps the listeners meanwhile', async () => {
  const { program, hung } = await stopped()
  program.write('server.mjs', FAILS)
  const run = upgrade(program, '--kill-stuck', '--timeout', '30s')
  await until('it has failed', () => program.read('failed') !== '')
  const answer = fetch(program.url)
  program.write('server.mjs', SERVER)
  const { code, stdout, stderr } = await run
  expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(
    /^no version serves yet: .* this command keeps the listeners meanwhile, and Ctrl-C closes them\. ERR_FDB_/m,
  )
  expect(stdout).not.toContain('serves on')
  expect(hasEnded(hung)).toBe(true)
  const pid = await program.serves(2)
  expect(await (await answer).text()).toBe(`pid ${pid}`)
  await program.command('stop')
})

it.runIf(NIGHTLY)('says that no version serves if none has served until the limit', async () => {
  const { program, hung } = await stopped()
  program.write('server.mjs', "throw new Error('a mistake')\n")
  const { code, stderr } = await upgrade(program, '--kill-stuck', '--timeout', '2s')
  expect(code).toBe(1)
  expect(stderr).toMatch(
    new RegExp(`^ERR_FDB_\\w+: no version serves: process ${hung} was killed, .* closed the listeners; `),
  )
  expect(stderr).not.toContain('serves on')
  expect(stderr).toMatch(/Error: a mistake|did not serve within/)
})

it.runIf(NIGHTLY)('ends when another command has started a version that serves', async () => {
  const { program } = await stopped()
  program.write('server.mjs', FAILS)
  const run = upgrade(program, '--kill-stuck', '--timeout', '30s')
  await until('it has failed', () => program.read('failed') !== '')
  program.write('fixed.mjs', SERVER)
  const words = program.words('import', { FD_BROKER_NAME: program.name }, [])
  const fixed = program.sandbox.runCommand(words.map(word => (word === 'server.mjs' ? 'fixed.mjs' : word)))
  const { code, stdout, stderr } = await run
  expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' })
  const pid = await program.serves(2)
  expect(stdout).toContain(`generation 2 (pid ${pid}) serves`)
  await program.answeredBy(pid)
  await program.command('stop')
  await fixed
})

it.runIf(NIGHTLY)('says at Ctrl-C that no version serves', async () => {
  const { program, hung } = await stopped()
  program.write('server.mjs', FAILS)
  const args = ['upgrade', '--control', program.control, '--kill-stuck', '--timeout', '60s']
  const { stdout, stderr } = await program.sandbox.runCommand([
    ...['timeout', '--preserve-status', '-s', 'INT', '10', process.execPath, CLI],
    ...args,
  ])
  expect(stdout).toContain('no version serves yet: ')
  expect(stderr).toMatch(
    new RegExp(
      `^SIGINT: cancelling the upgrade\nERR_FDB_ABORTED: no version serves: process ${hung} was killed, .*: the upgrade was cancelled`,
    ),
  )
})

it.runIf(NIGHTLY)('says at its limit that the next version does not listen', async () => {
  const program = await AutoProgram.of(SERVER)
  const pid = await program.serve()
  program.write('server.mjs', 'setInterval(() => {}, 1000)\n')
  const { code, stderr } = await upgrade(program, '--timeout', '2s')
  expect(code).toBe(1)
  expect(stderr).toMatch(
    new RegExp(
      `^ERR_FDB_DEADLINE: the successor (\\d+) did not serve within 2000 ms: it has not joined: it has called neither join\\(\\) nor, under fd-broker/auto, listen\\(\\) \\(phase starting\\): its successor \\1 was ended; process ${pid} serves on\n$`,
    ),
  )
  await program.answeredBy(pid)
  await program.command('stop')
})

it('says at its limit that the next version listens, and the last answer to its check', async () => {
  const program = await AutoProgram.of(SERVER, 'server.mjs', { env: { FD_BROKER_READY: '/' } })
  const pid = await program.serve()
  program.write('server.mjs', SERVER.replace('response.end', 'response.writeHead(500).end'))
  const { code, stderr } = await upgrade(program, '--timeout', '2s')
  expect(code).toBe(1)
  expect(stderr).toMatch(
    /: process \d+ has joined, but fails its check on tcp:\S+: GET \/: 500 Internal Server Error \(pid \d+\) \(phase offering\)/,
  )
  await program.answeredBy(pid)
  await program.command('stop')
})

it.runIf(NIGHTLY).each([true, false])(
  'an upgrade whose process does not serve, as another command was faster, says so; it fails if that process has ended (%s)',
  async ends => {
    const program = await AutoProgram.of(
      `import { existsSync } from 'node:fs'
       const until = async file => {
         while (!existsSync(file)) await new Promise(resolve => setTimeout(resolve, 20))
       }
       if (process.env.OTHER) await until('other may go on')
       else if (existsSync('first serves')) {
         await until('own may go on')
         if (${ends}) process.exit(3)
       }
       ${SERVER}`,
    )
    await program.serve()
    program.write('first serves', '')
    const other = program.sandbox.runCommand(program.words('import', { OTHER: '1' }, []))
    const upgrading = upgrade(program)
    const begun = await program.statusWhere('the upgrade has started its process', ({ upgrade }) => !!upgrade)
    const own = begun.upgrade!.pid
    if (ends) {
      // Within the time for the reason of its end.
      program.write('own may go on', '')
      await until('it has ended', () => hasEnded(own))
    }
    program.write('other may go on', '')
    const { code, stderr, stdout } = await upgrading
    const pid = await program.serves(2)
    if (!ends) {
      expect(code, program.output).toBe(0)
      expect(stdout).toContain(
        `\nprocess ${own}, which this upgrade started, does not serve: another command, or a service manager, started process ${pid}\n`,
      )
      program.write('own may go on', '')
    } else
      expect([code, stderr], program.output).toEqual([
        expect.toBeOneOf([1, 4]),
        expect.stringContaining('ended with code 3'),
      ])
    await program.command('stop')
    await other
  },
)

it.runIf(NIGHTLY)('an upgrade by a command that starts the server does not say so', async () => {
  const program = await AutoProgram.of(SERVER)
  await program.serve()
  const words = ['sh', '-c', '"$@"; true', 'sh', ...program.words('import', {}, [])]
  const { code, stdout } = await upgrade(program, '--', ...words)
  expect(code, program.output).toBe(0)
  const pid = await program.serves(2)
  expect(stdout).not.toMatch(new RegExp(`started +pid ${pid}$`, 'm'))
  expect(stdout).not.toContain('does not serve')
  await program.command('stop')
})
