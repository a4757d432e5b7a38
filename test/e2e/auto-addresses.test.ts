import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import * as operator from '../processes/operator.js'
import { procText } from '../processes/proc-file.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const HTTP = `import http from 'node:http'
import { existsSync } from 'node:fs'
const open = (...where) => http.createServer((request, response) => response.end('pid ' + process.pid)).listen(...where)
`
const MAIN = 'open(8080)\n'
const OTHER = "open('./other.sock')\n"
/** Times of a program: the silence that once counted as complete, the limit at which an upgrade fails, and the end of the previous version. */
const SOON = { FD_BROKER_QUIET: '50ms', FD_BROKER_READY_TIMEOUT: '1s', FD_BROKER_PROBATION: '300ms' }
const PATIENT = { ...SOON, FD_BROKER_READY_TIMEOUT: '20s' }

type Variables = Readonly<Record<string, string>>

/** The program listens on both addresses. */
async function both(env: Variables, text = `${HTTP}${MAIN}${OTHER}`) {
  const program = await AutoProgram.of(text, 'server.mjs', { env })
  const first = await program.serve()
  await program.statusWhere('both listen', ({ listeners }) => listeners.length === 2)
  return { program, first }
}

const upgrade = (program: AutoProgram, ...more: string[]) =>
  program.sandbox.run('upgrade', '--control', program.control, ...more)

const missing = (program: AutoProgram, ...addresses: string[]) =>
  program.statusWhere(`it waits for ${addresses.join(' and ')}`, ({ upgrade: now }) =>
    addresses.every(
      address => now?.missing?.startsWith('it does not listen on ') && now.missing.includes(address),
    ),
  )

/** Every one is answered by this process. */
async function answersStill(program: AutoProgram, pid: number, times = 100): Promise<void> {
  for (let asked = 0; asked < times; asked++) {
    const answer = await fetch(program.url, { headers: { connection: 'close' } })
    expect(await answer.text()).toBe(`pid ${pid}`)
  }
}

function upgradeWith(program: AutoProgram, env: Variables): Promise<unknown> {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return program.sandbox.runCommand([
    'env',
    ...variables,
    'node',
    CLI,
    'upgrade',
    '--control',
    program.control,
  ])
}

describe('a next version under fd-broker/auto serves only when it listens on every address of the version before:', () => {
  const LATE: readonly [string, string, string, (port: number) => string][] = [
    ['its main port, long after another', OTHER, MAIN, port => `tcp://[::]:${port}`],
    ['another address, long after its main port', MAIN, OTHER, () => '/other.sock'],
  ]

  it.each(perLane(LATE.slice(0, 1), LATE))('%s', async (_, early, late, address) => {
    const { program, first } = await both(PATIENT)
    program.write('server.mjs', `${HTTP}${early}process.on('SIGUSR2', () => { ${late.trim()} })\n`)
    const run = upgrade(program)
    const { upgrade: now } = await missing(program, address(program.port))
    await answersStill(program, first)
    expect((await operator.status(program.control)).generation).toBe(1)
    signalPid(now!.pid, 'SIGUSR2')
    expect(await run).toMatchObject({ code: 0 })
    await program.answeredBy(await program.serves(2))
  })

  it.runIf(NIGHTLY)(
    'also on one that the version before opens meanwhile, and not on one that it closes meanwhile',
    async () => {
      const { program, first } = await both(
        PATIENT,
        `${HTTP}${MAIN}const other = ${OTHER}process.on('SIGUSR2', () => { other.close(); open('./late.sock') })\n`,
      )
      program.write('server.mjs', `${HTTP}${MAIN}process.on('SIGUSR2', () => open('./late.sock'))\n`)
      const run = upgrade(program)
      await missing(program, '/other.sock')
      signalPid(first, 'SIGUSR2')
      const { upgrade: now } = await missing(program, '/late.sock')
      signalPid(now!.pid, 'SIGUSR2')
      expect(await run).toMatchObject({ code: 0 })
      const second = await program.serves(2)
      expect(await program.answerAt('late.sock')).toBe(`pid ${second}`)
      const { listeners } = await operator.status(program.control)
      expect(listeners.map(({ address }) => address)).toContain(`unix:${program.path('late.sock')}`)
    },
  )

  /** A program with a second server, which it closes and opens again at SIGUSR2. */
  const reopens = (port: number) => `${HTTP}${MAIN}const other = open(${port}, '127.0.0.1')
process.on('SIGUSR2', () => other.close(() => open(${port}, '127.0.0.1').on('listening', () => console.log('it listens again'))))
`
  const askedAt = async (port: number) =>
    await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()

  it('while it starts, the version before may close a server and listen again at its address', async () => {
    const port = await freePort()
    const { program, first } = await both(PATIENT, reopens(port))
    program.write(
      'server.mjs',
      `${HTTP}open(${port}, '127.0.0.1')\nprocess.on('SIGUSR2', () => open(8080))\n`,
    )
    const run = upgrade(program)
    const { upgrade: now } = await missing(program, `tcp://[::]:${program.port}`)
    signalPid(first, 'SIGUSR2')
    await program.says('it listens again')
    expect(await askedAt(port)).toBe(`pid ${first}`)
    signalPid(now!.pid, 'SIGUSR2')
    expect(await run).toMatchObject({ code: 0 })
    await program.answeredBy(await program.serves(2))
  })

  it('in its probation the version before may do so too, and accepts there after a rollback only', async () => {
    const [port, brief] = [await freePort(), await freePort()]
    const closesAgain = `const third = open(${brief}, '127.0.0.1')
process.on('SIGUSR2', () => third.close(() => {
  const again = open(${brief}, '127.0.0.1')
  process.on('SIGWINCH', () => again.close(() => console.log('it is closed again')))
}))
`
    const ends = "process.on('SIGALRM', () => process.exit())\n"
    // Such a process keeps its place after its program while another one serves.
    const env = { ...PATIENT, FD_BROKER_PROBATION: '60s', FD_BROKER_MAIN_PROCESS: '1' }
    const program = await AutoProgram.of(`${reopens(port)}${closesAgain}${ends}`, 'server.mjs', { env })
    const first = await program.serve()
    await program.statusWhere('all listen', ({ listeners }) => listeners.length === 3)
    await program.command('upgrade')
    const second = await program.serves(2)
    await program.statusWhere('the first one stands by', ({ draining }) => draining.length === 1)
    signalPid(first, 'SIGUSR2')
    await program.says('it listens again')
    for (const at of [port, brief]) await program.says(`tcp://127.0.0.1:${at} will not be handed over`)
    signalPid(first, 'SIGWINCH')
    await program.says('it is closed again')
    for (let asked = 0; asked < 20; asked++) expect(await askedAt(port)).toBe(`pid ${second}`)
    await program.command('rollback')
    await program.serves(1)
    await program.ends(second)
    expect(await askedAt(port)).toBe(`pid ${first}`)
    await expect(askedAt(brief)).rejects.toThrow()
    expect(program.output.match(new RegExp(`127.0.0.1:${brief} will not be handed over`, 'g'))).toHaveLength(
      1,
    )
    // The server is a listener since: another rollback finds nothing to do for it.
    const said = program.output.match(/will not be handed over/g)
    await program.command('upgrade')
    const third = await program.serves(2)
    await program.statusWhere('the first one stands by again', ({ draining }) => draining.length === 1)
    expect(await askedAt(port)).toBe(`pid ${third}`)
    await program.command('rollback')
    await program.serves(1)
    await program.ends(third)
    for (let asked = 0; asked < 20; asked++) expect(await askedAt(port)).toBe(`pid ${first}`)
    expect(program.output.match(/will not be handed over/g)).toEqual(said)
    signalPid(first, 'SIGALRM')
    const isKept = () => procText(first, 'cmdline').includes('\0keep\0')
    await until('the program has ended', () => hasEnded(first) || isKept() || null)
    expect(isKept(), 'it serves, and is kept').toBe(false)
  })

  it('a server that was closed as soon as it listened may listen again at once', async () => {
    const once = `const server = open(8080, '127.0.0.1').once('listening', () => server.close(() => server.listen(8080, '127.0.0.1')))\n`
    const program = await AutoProgram.of(`${HTTP}${once}`, 'server.mjs', { env: SOON })
    await program.serve()
    await program.command('upgrade')
    await program.answeredBy(await program.serves(2))
  })

  it('a program that closes its first server may open the right one long after that', async () => {
    const program = await AutoProgram.of(`${HTTP}${MAIN}`, 'server.mjs', { env: SOON })
    await program.serve()
    // The library sets the variable when the server is its own. From then on the program has the silence of SOON.
    program.write(
      'server.mjs',
      `${HTTP}const first = open(0)
const isOurs = setInterval(() => {
  if (process.env.FD_BROKER_AUTO_PARENT !== String(process.pid)) return
  clearInterval(isOurs)
  first.close(() => setTimeout(open, 150, 8080))
}, 1)
`,
    )
    await program.launch('import')
    await program.answeredBy(await program.serves(2))
    // A program that has left joins again: it serves in any case.
    expect(program.output).not.toContain('on other addresses')
  })

  it.runIf(NIGHTLY)(
    'servers at a port that the kernel chooses are matched in the order in which they listen',
    async () => {
      const { program, first } = await both(SOON, `${HTTP}open(0, '127.0.0.1')\nopen(0, '127.0.0.1')\n`)
      const { listeners } = await operator.status(program.control)
      program.write('server.mjs', `${HTTP}open(0, '127.0.0.1')\n`)
      const { code, stderr } = await upgrade(program)
      expect(code).toBe(1)
      expect(stderr).toContain(
        `has joined, but does not listen on ${listeners[1]!.address}, as the version that serves does`,
      )
      expect(stderr).not.toContain(listeners[0]!.address)
      expect((await operator.status(program.control)).pid).toBe(first)
    },
  )
})

describe('a listener that a next version under fd-broker/auto gives up on purpose', () => {
  it.runIf(NIGHTLY)(
    'fails an upgrade at its limit, which names it and the command that leaves it out',
    async () => {
      const { program, first } = await both(SOON)
      program.write('server.mjs', `${HTTP}${MAIN}`)
      const { code, stderr } = await upgrade(program)
      expect(code).toBe(1)
      expect(stderr).toMatch(/^ERR_FDB_DEADLINE: process \d+ was not ready within 1000 ms/)
      const [, remedy = ''] =
        /has joined, but does not listen on unix:\S+\/other\.sock, as the version that serves does \(to give that up: fd-broker upgrade (--without \S+)\)/.exec(
          stderr,
        ) ?? []
      await answersStill(program, first, 1)
      expect(await upgrade(program, ...remedy.split(' '))).toMatchObject({ code: 0 })
      await program.answeredBy(await program.serves(2))
      await program.statusWhere('it is closed', ({ listeners }) => listeners.length === 1)
      expect(existsSync(program.path('other.sock'))).toBe(false)
    },
  )

  it.each<[string, string, string, (program: AutoProgram, env: Variables) => Promise<unknown>]>([
    ['process', MAIN, './other.sock', (program, env) => program.launch('import', env)],
    ['command', OTHER, '8080', upgradeWith],
  ])(
    'may be missing if a variable of the %s names it, also beside an address that does not exist',
    async (_, text, gone, start) => {
      const { program } = await both(SOON)
      program.write('server.mjs', `${HTTP}${text}`)
      const address = gone === '8080' ? `${program.port}` : program.path(gone)
      const started = start(program, { FD_BROKER_WITHOUT: `tcp://127.0.0.1:1, ${address}` })
      await program.serves(2)
      await started
      await program.statusWhere('it is closed', ({ listeners }) => listeners.length === 1)
    },
  )

  it.runIf(NIGHTLY)('may be missing in the next version only: that one does not pass this on', async () => {
    const text = "setInterval(() => console.log('children get ' + process.env.FD_BROKER_WITHOUT), 100)\n"
    const { program } = await both(SOON)
    program.write('server.mjs', `${HTTP}${MAIN}${text}`)
    expect(await upgrade(program, '--without', program.path('other.sock'))).toMatchObject({ code: 0 })
    const second = await program.serves(2)
    expect(environment(second)).toContain('FD_BROKER_WITHOUT=')
    await program.says('children get undefined')
    await program.command('upgrade')
    expect(environment(await program.serves(3))).not.toContain('FD_BROKER_WITHOUT=')
  })

  it('must be one of the running version to be given up: the refusal lists these', async () => {
    const { program, first } = await both(SOON)
    const { code, stderr, stdout } = await upgrade(program, '--without', 'tcp://127.0.0.1:1')
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(
      `--without tcp://127.0.0.1:1: process ${first} does not listen there; it listens on tcp://[::]:${program.port}, unix:${program.path('other.sock')}\n`,
    )
  })

  it('can be opened later, also while the version before stands by', async () => {
    const { program } = await both({ ...SOON, FD_BROKER_PROBATION: '20s' })
    program.write('server.mjs', `${HTTP}${MAIN}process.on('SIGUSR2', () => { ${OTHER.trim()} })\n`)
    expect(await upgrade(program, '--without', program.path('other.sock'))).toMatchObject({ code: 0 })
    const second = await program.serves(2)
    signalPid(second, 'SIGUSR2')
    const answer = await until('it answers there', () => program.answerAt('other.sock').catch(() => null))
    expect(answer).toBe(`pid ${second}`)
    expect((await operator.status(program.control)).phase).toBe('probation')
  })
})

it.runIf(NIGHTLY)('FD_BROKER_READY asks every HTTP address of a next version', async () => {
  const { program, first } = await both({ ...PATIENT, FD_BROKER_READY: '/health' })
  program.write(
    'server.mjs',
    `${HTTP}${MAIN}http.createServer((request, response) => response.writeHead(existsSync('well') ? 200 : 503).end()).listen('./other.sock')\n`,
  )
  const run = upgrade(program)
  await program.statusWhere('it waits for the other one', ({ upgrade: now }) =>
    /fails its check on unix:\S+\/other\.sock: GET \/health: 503/.test(now?.missing ?? ''),
  )
  await answersStill(program, first, 20)
  program.write('well', '')
  expect(await run).toMatchObject({ code: 0 })
  await program.answeredBy(await program.serves(2))
})

function environment(pid: number): string {
  return readFileSync(`/proc/${pid}/environ`, 'latin1').replaceAll('\0', '\n')
}
