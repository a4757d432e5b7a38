import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import { type Ran, Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const SERVER = `import http from 'node:http'
const server = http.createServer((request, response) => {
  console.log(process.pid + ' is asked ' + request.url)
  response.end('pid ' + process.pid)
})
server.listen(8080, () => console.log(process.pid + ' listens'))
`

function words(program: AutoProgram, args: readonly string[]): string[] {
  const place = `RUNTIME_DIRECTORY=${program.place.RUNTIME_DIRECTORY}`
  const folder = ['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', program.sandbox.folder]
  return [...folder, 'env', place, process.execPath, CLI, ...args]
}

/** `fd-broker …` in the program's folder. */
function command(program: AutoProgram, ...args: string[]): Promise<Ran> {
  return program.sandbox.runCommand(words(program, args))
}

/** The words of a command that starts it. */
function startWords(program: AutoProgram, log = 'shop.log'): string[] {
  return ['start', 'server.mjs', '--log-file', program.path(log)]
}

/** Starts it; what is printed as JSON. */
async function start(program: AutoProgram, ...args: string[]): Promise<{ pid: number; generation: number }> {
  const line = [...startWords(program, 'log/shop.log'), '--json', ...args]
  const { code, stdout, stderr } = await command(program, ...line)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

async function linesOf(program: AutoProgram, ...args: string[]): Promise<string[]> {
  const { stdout, stderr } = await command(program, 'logs', '--service', program.name, ...args)
  expect(stderr).toBe('')
  return stdout.split('\n').slice(0, -1)
}

/** `fd-broker …` in the program's folder, while it runs. */
function begin(program: AutoProgram, ...args: string[]) {
  const [file = '', ...rest] = words(program, args)
  const run = spawn(file, rest, { env: program.sandbox.env })
  let [stdout, stderr] = ['', '']
  run.stdout.setEncoding('utf8').on('data', text => (stdout += text))
  run.stderr.setEncoding('utf8').on('data', text => (stderr += text))
  const ended = once(run, 'close').then(([code]) => ({ code: code as number | null, stdout, stderr }))
  return { command: run, ended }
}

/** The output of all versions that write to logs in a folder. */
function logOf(program: AutoProgram, folder = '.'): string {
  const names = existsSync(program.path(folder)) ? readdirSync(program.path(folder)) : []
  const logs = names.filter(name => /^shop\.\d+\.log$/.test(name))
  return logs.map(name => program.read(join(folder, name))).join('')
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

const pidIn = (text: string) => Number(/\(pid (\d+)\)/.exec(text)?.[1])

const UNPRIVILEGED = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']

/** Runs `fd-broker start` as a user without rights, with these variables. */
async function startedAsOther(program: AutoProgram, variables: readonly string[]) {
  const user = process.geteuid?.() === 0 ? UNPRIVILEGED : []
  const line = words(program, ['start', 'server.mjs'])
  const { code, stderr } = await program.sandbox.runCommand([...user, 'env', ...variables, ...line])
  return { code, stderr }
}

/** Programs that do not serve, and what is said of them. */
const NOT_SERVING: readonly (readonly [
  what: string,
  text: string,
  options: readonly string[],
  said: RegExp,
])[] = [
  [
    'never listens',
    'setInterval(() => {}, 1000)',
    [],
    /none of its servers listens: it has not called listen\(\), or/,
  ],
  [
    'answers 404 to its health check',
    "import http from 'node:http'\nhttp.createServer((_, answer) => answer.writeHead(404).end()).listen(0)\n",
    ['--ready', '/health'],
    /it listens, but fails its check on tcp:\S+[1-9]: GET \/health: 404 Not Found; its log /,
  ],
  [
    'hides that its port is taken',
    "import http from 'node:http'\nhttp.createServer().listen(8080).on('error', () => setInterval(() => {}, 1000))\n",
    [],
    /\n {2}fd-broker: a server does not listen: listen EADDRINUSE: address already in use :::\d+\n/,
  ],
  [
    'does not call ready()',
    SERVER.replace('8080', '0'),
    ['--ready', 'call'],
    /it listens, but has not called ready\(\)/,
  ],
]

/** The part of a program that ends it when the file `end` is beside it. */
const ENDS_WHEN_TOLD =
  "import { existsSync } from 'node:fs'\nsetInterval(() => existsSync(new URL('end', import.meta.url)) && process.exit(3), 20)\n"

describe('fd-broker start', () => {
  it('serves in the background, upgrades when it is called again, and has the output of each generation', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    expect(first).toMatchObject({ generation: 1, service: program.name, control: program.control })
    expect(Number(program.read(`run/${program.name}.pid`))).toBe(first.pid)
    await program.answeredBy(first.pid, '/one')
    const second = await start(program)
    expect(second.generation).toBe(2)
    await program.answeredBy(second.pid, '/two')
    const { stdout } = await program.sandbox.run('upgrade', '--control', program.control)
    expect(stdout).toMatch(
      /serves, after \d+ ms\nits log is \S+\/log\/shop\.log\nthe previous version stands by for \d+ s: .*\n$/,
    )
    const third = await program.serves(3)
    await program.answeredBy(third, '/three')
    const asked = ['/one', '/two', '/three']
    for (const [index, pid] of [first.pid, second.pid, third].entries()) {
      const lines = [`${pid} listens`, `${pid} is asked ${asked[index]}`]
      let found: string[] = []
      await until(
        `generation ${index + 1} has its lines`,
        async () => {
          found = await linesOf(program, '--generation', `${index + 1}`)
          return lines.every(line => found.includes(line)) || null
        },
        10_000,
        () => found.join('\n'),
      )
      expect(found.filter(line => !line.startsWith(`${pid} `))).toEqual([])
    }
    expect(await linesOf(program, '--lines', '1')).toEqual([`${third} is asked /three`])
    program.write('server.mjs', "throw new Error('a mistake')\n")
    const failed = await program.sandbox.run('upgrade', '--control', program.control)
    const [, log = ''] = /^the log of the version that failed is (.*)$/m.exec(failed.stdout) ?? []
    await until('it has the error', () => readFileSync(log, 'utf8').includes('Error: a mistake'))
    program.write('server.mjs', 'process.exit(3)\n')
    const silent = await program.sandbox.run('upgrade', '--control', program.control)
    expect(silent.stdout).not.toContain('the log of the version that failed is')
    expect(silent.stdout).toContain('the version that failed wrote nothing to its log\n')
    await program.command('stop')
    expect(hasEnded(third)).toBe(true)
    expect(program.read(`run/${program.name}.pid`)).toBe('')
  })

  it.each<[what: string, text: string, line: number, error: string]>([
    [
      'an error',
      "console.error('line\\n'.repeat(30))\nthrow new Error('a mistake')\n",
      2,
      'Error: a mistake',
    ],
    ...perLane<[string, string, number, string][]>(
      [],
      [['a syntax error', "import 'node:http'\nconst a = ;\n", 2, "SyntaxError: Unexpected token ';'"]],
    ),
  ])('says why a program does not serve, with the first lines of %s', async (_, text, line, error) => {
    const program = await AutoProgram.of(text)
    const { code, stderr } = await command(program, ...startWords(program))
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /ERR_FDB_SUCCESSOR_EXITED: server\.mjs \(pid \d+\) ended with code 1 before it served/,
    )
    const place = `${pathToFileURL(program.path('server.mjs'))}:${line}`
    expect(stderr).toContain(`\n  ${place}\n`)
    expect(stderr).toContain(`\n  ${error}\n`)
    expect(readdirSync(program.path('run'))).toEqual([])
  })

  it.runIf(NIGHTLY)('waits for an uncaught error in the log, which another process writes', async () => {
    const program = await AutoProgram.of(`import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
const commandLine = pid => { try { return readFileSync('/proc/' + pid + '/cmdline', 'latin1') } catch { return '' } }
const isWriter = text => text.includes('write-log') && text.includes(import.meta.dirname)
const writer = readdirSync('/proc').find(pid => isWriter(commandLine(pid)))
process.kill(writer, 'SIGSTOP')
spawn('sh', ['-c', 'sleep 0.4; kill -CONT ' + writer], { detached: true, stdio: 'ignore' }).unref()
throw new Error('a mistake')
`)
    const { code, stderr } = await command(program, ...startWords(program))
    expect(code).toBe(1)
    expect(stderr).toContain(`\n  ${pathToFileURL(program.path('server.mjs'))}:8\n`)
  })

  it.runIf(NIGHTLY)(
    'says why a server does not listen if the program then throws another error, also in an upgrade',
    async () => {
      const text =
        "import http from 'node:http'\nconst server = http.createServer((_, answer) => answer.end('pid ' + process.pid))\n"
      const throws = `${text}server.once('error', () => console.log(server.address().port)).listen(PORT)\n`
      const said =
        /\n {2}fd-broker: a server does not listen: listen EADDRINUSE: address already in use :::\d+\n[\s\S]*TypeError: /
      const other = createServer().listen(0)
      onTestFinished(() => void other.close())
      await once(other, 'listening')
      const taken = throws.replace('PORT', String((other.address() as AddressInfo).port))
      const program = await AutoProgram.of(taken)
      const failed = await command(program, ...startWords(program))
      expect(failed.code).toBe(1)
      expect(failed.stderr).toMatch(said)
      program.write('server.mjs', `${text}server.listen(8080)\n`)
      await start(program)
      program.write('server.mjs', taken)
      const upgrade = await program.sandbox.run('upgrade', '--control', program.control)
      expect(upgrade.code).toBe(1)
      expect(upgrade.stderr).toMatch(said)
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY)('says that the command of a next version does not load fd-broker', async () => {
    const program = await AutoProgram.of(SERVER)
    const { pid } = await start(program)
    const command = ['--', 'node', program.path('server.mjs')]
    const { code, stdout } = await program.sandbox.run('upgrade', '--control', program.control, ...command)
    expect(code).toBe(1)
    expect(stdout).toContain(
      `\nport ${program.port} is in use by process ${pid}, which serves: the next version did not take over its socket. Does the command of the next version load fd-broker, `,
    )
    await program.command('stop')
  })

  it('names the process that has the port, and prints the failure as JSON', async () => {
    const program = await AutoProgram.of(SERVER)
    const taken = createServer().listen(program.port)
    onTestFinished(() => void taken.close())
    const log = ['--log-file', program.path('log/shop.log')]
    const { code, stdout, stderr } = await command(program, 'start', 'server.mjs', ...log, '--json')
    expect(code).toBe(1)
    expect(stderr).toMatch(
      new RegExp(
        `^ERR_FDB_SUCCESSOR_EXITED: .*; port ${program.port} is in use by process ${process.pid} \\(`,
      ),
    )
    expect(JSON.parse(stdout)).toEqual({
      ok: false,
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      message: expect.stringContaining(`port ${program.port} is in use`),
    })
  })

  it.runIf(NIGHTLY)(
    'exits 4 if another next version was taking over, also if that one has failed meanwhile',
    async () => {
      const program = await AutoProgram.of(SERVER)
      await start(program)
      program.write(
        'server.mjs',
        `import http from 'node:http'\nhttp.createServer(() => console.log('keeps silent')).listen(8080)\n`,
      )
      const ready = [
        'env',
        'FD_BROKER_READY=/',
        'node',
        '--import',
        'fd-broker/auto',
        program.path('server.mjs'),
      ]
      const { command: upgrade, ended } = begin(
        program,
        'upgrade',
        '--control',
        program.control,
        '--',
        ...ready,
      )
      await until('the next version has joined', () => logOf(program, 'log').includes('keeps silent') || null)
      program.write(
        'server.mjs',
        `import { existsSync } from 'node:fs'
import http from 'node:http'
console.log('waits')
const listen = () => (existsSync('go') ? http.createServer().listen(8080) : setTimeout(listen, 10))
listen()
`,
      )
      const again = begin(program, ...startWords(program, 'log/shop.log'))
      await until('the other one runs', () => logOf(program, 'log').includes('waits') || null)
      again.command.kill('SIGSTOP')
      onTestFinished(() => void again.command.kill('SIGCONT'))
      program.write('go', '')
      await until(
        'it is refused',
        () => logOf(program, 'log').includes('does not serve: ERR_FDB_BUSY') || null,
      )
      upgrade.kill('SIGINT')
      await ended
      again.command.kill('SIGCONT')
      const { code, stderr } = await again.ended
      expect(stderr).toMatch(/^ERR_FDB_BUSY: server\.mjs /)
      expect(stderr).toContain('a handoff is under way (phase offering, process ')
      expect(code).toBe(4)
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY)('says that no server listened if a program ends by itself', async () => {
    const program = await AutoProgram.of("import 'node:fs'\n")
    const { stderr } = await command(program, ...startWords(program, 'log/shop.log'))
    expect(stderr).toMatch(
      /ended with code 0 before it served: none of its servers listened; its log is \S+\n$/,
    )
  })

  it.runIf(NIGHTLY)('says that this Node does not run TypeScript', async () => {
    const program = await AutoProgram.of(
      `throw new TypeError('[ERR_UNKNOWN_FILE_EXTENSION]: Unknown file extension ".ts" for server.ts')\n`,
    )
    const { stderr } = await command(program, ...startWords(program, 'log/shop.log'))
    expect(stderr).toMatch(
      / does not run TypeScript: compile the program, or install tsx and set NODE_OPTIONS='--import tsx'; its log/,
    )
  })

  it.runIf(NIGHTLY)(
    'waits for the end of another start of the service, and then starts the next version',
    async () => {
      const program = await AutoProgram.of(`import { existsSync } from 'node:fs'
console.log('waits')
while (!existsSync('go')) await new Promise(resolve => setTimeout(resolve, 10))
${SERVER.replace(/^import.*/, "const { default: http } = await import('node:http')")}`)
      const one = begin(program, ...startWords(program), '--json')
      await until('the first one runs', () => logOf(program).includes('waits') || null)
      const other = begin(program, ...startWords(program), '--json')
      let said = ''
      other.command.stderr.on('data', text => (said += text))
      await until('the second one waits', () => said.includes('another fd-broker start of ') || null)
      const late = await command(program, ...startWords(program), '--timeout', '100ms')
      expect(late).toMatchObject({ code: 4, stderr: expect.stringContaining('ERR_FDB_BUSY') })
      program.write('go', '')
      const results = await Promise.all([one.ended, other.ended])
      expect(results.map(({ code }) => code)).toEqual([0, 0])
      expect(results.map(({ stdout }) => JSON.parse(stdout).generation)).toEqual([1, 2])
      await program.command('stop')
    },
  )

  it('says why a next version got no socket, and names the process that was given it', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    const second = await start(program)
    signalPid(second.pid, 'SIGSTOP')
    onTestFinished(() => signalPid(second.pid, 'SIGKILL'))
    await program.statusWhere(
      'the first serves again',
      ({ pid, role }) => pid === first.pid && role === 'serving',
    )
    const { code, stdout, stderr } = await program.sandbox.run('upgrade', '--control', program.control)
    expect(code).toBe(1)
    expect(stderr).toContain(
      `\n  fd-broker: this version does not serve: ERR_FDB_BUSY: process ${second.pid} was given the listeners in an earlier handoff`,
    )
    expect(stdout).not.toContain('Does the command of the next version load fd-broker')
  })

  it.each([
    ['SIGTERM', 143],
    // The gate has SIGINT with a version that serves already.
    ...perLane([], [['SIGHUP', 129] as const, ['SIGINT', 130] as const]),
  ] as const)('ends what it has started when it gets %s, and exits %d', async (signal, code) => {
    const program = await AutoProgram.of("console.log('begins')\nsetInterval(() => {}, 1000)\n")
    const { command: run, ended } = begin(program, ...startWords(program))
    await until('the program runs', () => logOf(program).includes('begins') || null)
    run.kill(signal)
    const { stderr, ...exit } = await ended
    expect(exit).toEqual({ code, stdout: '' })
    expect(stderr).toMatch(
      new RegExp(
        `^${signal}: cancelling the start\nERR_FDB_ABORTED: the start was cancelled: server.mjs \\(pid `,
      ),
    )
    expect(hasEnded(pidIn(stderr))).toBe(true)
    expect(readdirSync(program.path('run'))).toEqual([])
    await until('the log’s process has ended', () => program.sandbox.processes().length === 0 || null)
  })

  it.each<[how: string, more: string, limit: string | null]>([
    ['is killed', "process.on('SIGTERM', () => {})\n", null],
    ...perLane<[string, string, string | null][]>(
      [],
      [
        ['ends by itself', ENDS_WHEN_TOLD, '30s'],
        ['is cancelled', '', null],
        ['is late', '', '2s'],
      ],
    ),
  ])('leaves no control socket if the program listens, and %s before it serves', async (_, more, limit) => {
    const program = await AutoProgram.of(`${SERVER}\n${more}`)
    const timeout = limit === null ? [] : ['--timeout', limit]
    const { command: run, ended } = begin(program, ...startWords(program), '--ready', 'call', ...timeout)
    await until('the control socket is there', () => existsSync(program.control) || null)
    if (limit === null) run.kill('SIGINT')
    else program.write('end', '')
    const { code } = await ended
    expect(code).not.toBe(0)
    expect(readdirSync(program.path('run'))).toEqual([`${program.name}.sock.lock`])
  })

  it('ends a next version at Ctrl-C, and the previous one serves on', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    program.write('server.mjs', "console.log('begins')\nsetInterval(() => {}, 1000)\n")
    const { command: run, ended } = begin(program, ...startWords(program, 'next/shop.log'))
    await until('the program runs', () => logOf(program, 'next').includes('begins') || null)
    run.kill('SIGINT')
    const { code, stderr } = await ended
    expect(code).toBe(130)
    expect(stderr).toContain(`was ended; process ${first.pid} (generation 1) serves on`)
    await program.answeredBy(first.pid)
    await program.command('stop')
  })

  it.runIf(NIGHTLY)(
    'says that the port is in use of a program that keeps that to itself and ends',
    async () => {
      const program = await AutoProgram.of(
        "import http from 'node:http'\nhttp.createServer().on('error', () => {}).listen(8080)\n",
      )
      const taken = createServer().listen(program.port)
      onTestFinished(() => void taken.close())
      const { code, stderr } = await command(program, ...startWords(program))
      expect(code).toBe(1)
      expect(stderr).toMatch(/^ERR_FDB_SUCCESSOR_EXITED: server\.mjs .* ended with code 0 .*\n.*EADDRINUSE/)
    },
  )

  it.runIf(NIGHTLY)(
    'names the log of a version that fails after it has served, in status, logs and the upgrade itself',
    async () => {
      const program = await AutoProgram.of(SERVER)
      const first = await start(program)
      // The failing version stops the command until it has failed.
      program.write(
        'server.mjs',
        `import { readFileSync } from 'node:fs'
process.kill(Number(readFileSync('command', 'utf8')), 'SIGSTOP')
${SERVER}setTimeout(() => { throw new Error('a late mistake') }, 500)
`,
      )
      const { command: run, ended } = begin(program, 'upgrade', '--service', program.name)
      program.write('command', String(run.pid))
      await program.statusWhere(
        'the first version serves again',
        ({ lastFailure, pid, role }) => lastFailure !== null && pid === first.pid && role === 'serving',
      )
      signalPid(run.pid!, 'SIGCONT')
      const { code, stdout, stderr } = await ended
      expect(code).toBe(1)
      const [, log = ''] = /^the log of the version that failed is (.*)$/m.exec(stdout) ?? []
      expect(readFileSync(log, 'utf8')).toContain('Error: a late mistake')
      expect(stderr).toMatch(
        new RegExp(
          `^ERR_FDB_SUCCESSOR_LOST: generation 2 \\(pid \\d+\\) has served and failed: .*; process ${first.pid} \\(generation 1\\) serves again\n$`,
        ),
      )
      expect((await program.sandbox.run('status', '--control', program.control)).stdout).toMatch(
        new RegExp(`^last failure .* after it had served for \\d+ ms; its log is ${log}$`, 'm'),
      )
      expect((await command(program, 'logs', '--service', program.name)).stderr).toMatch(
        new RegExp(`^the last upgrade failed: .*; the log of that version is ${log}\n$`),
      )
      program.write('server.mjs', SERVER)
      await start(program)
      expect(await linesOf(program, '-n', '1')).not.toEqual([])
      await program.command('stop')
    },
  )

  it('says that there is no such file', async () => {
    const program = await AutoProgram.of(SERVER)
    expect(await command(program, 'start', 'nosuch.mjs')).toEqual({
      code: 2,
      stdout: '',
      stderr: `ERR_FDB_OPTION: there is no file ${program.path('nosuch.mjs')}: give the file of a Node program\n`,
    })
  })

  it('refuses a control path that is too long, before it starts the program', async () => {
    const program = await AutoProgram.of("import 'node:fs'\nsetInterval(() => {}, 1000)\n")
    const control = `/tmp/${'x'.repeat(102)}`
    const line = words(program, startWords(program, 'log/shop.log'))
    const args = ['env', `FD_BROKER_CONTROL=${control}`, ...line]
    expect(await program.sandbox.runCommand(args)).toEqual({
      code: 2,
      stdout: '',
      stderr: expect.stringMatching(
        /^ERR_FDB_PATH_TOO_LONG: control socket path of 107 bytes exceeds .* 106:/,
      ),
    })
    expect(existsSync(program.path('log'))).toBe(false)
  })

  it('says that the default log file cannot be created, and the remedy', async () => {
    const program = await AutoProgram.of(SERVER)
    program.write('state', '')
    chmodSync(program.sandbox.folder, 0o755)
    const told = await startedAsOther(program, [
      'FD_BROKER_LOG_FILE=',
      `XDG_STATE_HOME=${program.path('state')}`,
      `TMPDIR=${program.sandbox.folder}`,
    ])
    expect(told).toEqual({
      code: 2,
      stderr: expect.stringMatching(
        /^ERR_FDB_OPTION: the default log file \S+\/state\/fd-broker\/shop-\w+\.log cannot be created .*: give --log-file, or set XDG_STATE_HOME/,
      ),
    })
  })

  it('says that the folder of the control socket cannot be made, and the remedy', async () => {
    const program = await AutoProgram.of(SERVER)
    program.write('temporary', '')
    chmodSync(program.sandbox.folder, 0o777)
    const told = await startedAsOther(program, [
      'FD_BROKER_CONTROL=',
      'FD_BROKER_LOG_FILE=',
      'XDG_RUNTIME_DIR=',
      `XDG_STATE_HOME=${program.path('state')}`,
      `TMPDIR=${program.path('temporary')}`,
    ])
    expect(told).toEqual({
      code: 2,
      stderr: expect.stringMatching(
        /^ERR_FDB_OPTION: the default pid file, beside the control socket, \S+\.pid cannot be created .*: set FD_BROKER_CONTROL/,
      ),
    })
  })

  it.each([
    ['a file', 'precious'],
    ...perLane(
      [],
      [
        ['a symbolic link', 'link'],
        ['a folder', 'folder'],
        ['a pipe or socket', 'fifo'],
      ],
    ),
  ])('does not replace %s by its log', async (what, name) => {
    const program = await AutoProgram.of(SERVER)
    const folder = program.path('log')
    mkdirSync(join(folder, 'folder'), { recursive: true })
    program.write('log/precious', 'precious\n')
    symlinkSync('precious', join(folder, 'link'))
    execFileSync('mkfifo', [join(folder, 'fifo')])
    const before = readdirSync(folder)
    const path = join(folder, name)
    expect(await command(program, 'start', 'server.mjs', '--log-file', path)).toEqual({
      code: 2,
      stdout: '',
      stderr: `ERR_FDB_OPTION: there is ${what} at ${path}, and fd-broker start would replace it by a link to the log: give --log-file a path that does not exist\n`,
    })
    expect(readdirSync(folder)).toEqual(before)
    expect(lstatSync(join(folder, 'fifo')).isFIFO()).toBe(true)
    expect(program.read('log/link')).toBe('precious\n')
  })

  it('refuses a log that it cannot create', async () => {
    const program = await AutoProgram.of(SERVER)
    const { code, stderr } = await command(program, 'start', 'server.mjs', '--log-file', '/proc/shop.log')
    expect(code).toBe(2)
    expect(stderr).toMatch(
      /^ERR_FDB_OPTION: process \d+ \(uid \d+\) cannot create the log \/proc\/shop\.log \(E\w+: .*\): give --log-file a path in a folder /,
    )
    expect(program.sandbox.processes()).toEqual([])
  })

  it.runIf(NIGHTLY)(
    'keeps files of another origin beside its files, and in the place of its link',
    async () => {
      const program = await AutoProgram.of(SERVER)
      const first = await start(program)
      rmSync(program.path('log/shop.log'))
      const names = ['log/shop.log', 'log/shop.generation-notes', 'log/shop.generation-2.log']
      for (const name of names) program.write(name, 'precious\n')
      expect(await program.sandbox.run('upgrade', '--control', program.control)).toMatchObject({ code: 0 })
      const second = await program.serves(2)
      expect(second).not.toBe(first.pid)
      for (const name of names) expect(program.read(name)).toBe('precious\n')
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY).each(NOT_SERVING)(
    'says at its limit what is missing if a program %s',
    async (_, text, options, said) => {
      const program = await AutoProgram.of(text)
      const taken = createServer().listen(program.port)
      onTestFinished(() => void taken.close())
      const line = [...startWords(program), '--timeout', '5s', ...options]
      const { code, stderr } = await command(program, ...line)
      expect(code).toBe(1)
      expect(stderr).toMatch(
        /^ERR_FDB_DEADLINE: server\.mjs \(pid \d+\) did not serve within 5000 ms, and was ended: /,
      )
      expect(stderr).toMatch(said)
      expect(hasEnded(pidIn(stderr))).toBe(true)
    },
  )

  it.each([
    [
      'is another of the same name',
      'index.mjs',
      '8080',
      /"shop-\w+" is the service of another program, .*: this program would run without upgrades; set FD_BROKER_NAME \(with fd-broker start: --name\) to a name/,
    ],
  ] as const)('fails at once if the program %s', async (_, file, port, said) => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    program.write(file, SERVER.replace('8080', port))
    const { code, stderr } = await command(
      program,
      'start',
      file,
      '--log-file',
      program.path('next.log'),
      '--timeout',
      '60s',
    )
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /^ERR_FDB_SUCCESSOR_LOST: \w+\.mjs \(pid \d+\) does not serve as a version, and was ended: /,
    )
    expect(stderr).toMatch(said)
    expect(hasEnded(pidIn(stderr))).toBe(true)
    await program.answeredBy(first.pid)
    await program.command('stop')
  })

  it.runIf(NIGHTLY)('a next version on another port fails at the limit with the reason', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    program.write('server.mjs', SERVER.replace('8080', '0'))
    for (const [name, words] of [
      ['upgrade', ['--control', program.control, '--timeout', '4s']],
      ['start', [program.file, '--log-file', program.path('next.log'), '--timeout', '4s']],
    ] as const) {
      const { code, stderr } = await command(program, name, ...words)
      expect(code).toBe(1)
      expect(stderr).toMatch(/^ERR_FDB_DEADLINE: .* did not serve within 4000 ms/m)
      expect(stderr).toMatch(
        /does not listen on tcp:\S+, as the version that serves does \(to give that up: fd-broker upgrade --without '?tcp:\S+\)/,
      )
    }
    await program.answeredBy(first.pid)
    await program.command('stop')
  })

  it.runIf(NIGHTLY)('names the probation that a next version has not outlasted at its limit', async () => {
    const program = await AutoProgram.of(SERVER)
    await start(program)
    const second = await start(program)
    const { code, stderr } = await command(program, ...startWords(program, 'log/shop.log'), '--timeout', '2s')
    expect(code).toBe(1)
    expect(stderr).toMatch(
      new RegExp(
        `: process ${second.pid} is in probation \\(for \\d s more\\), and no version can take over`,
      ),
    )
    await program.command('stop')
  })

  it.runIf(NIGHTLY)(
    'notes that the running version was started with --ready, which start does not remember',
    async () => {
      const program = await AutoProgram.of(SERVER)
      await start(program, '--ready', '/health')
      const { code, stderr } = await command(program, ...startWords(program, 'log/shop.log'))
      expect(code).toBe(0)
      expect(stderr).toMatch(
        /^the running version was started with --ready \/health, but this start does not give the option, .*\n$/,
      )
      await start(program)
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY)(
    'says after some seconds what a program that never listens has not done, also in an upgrade',
    async () => {
      const program = await AutoProgram.of('setInterval(() => {}, 1000)\n')
      const log = ['--log-file', program.path('log/shop.log')]
      const line = words(program, ['start', 'server.mjs', ...log, '--timeout', '7s'])
      const late = await program.sandbox.runCommand(line, { notes: true })
      expect(late.stderr).toMatch(
        /^server\.mjs \(pid \d+\) does not serve yet: none of its servers listens: .*; its log is \S+\nERR_FDB_DEADLINE: /,
      )
      program.write('server.mjs', SERVER)
      await start(program)
      program.write('server.mjs', SERVER.replace('8080', '0'))
      const { ended } = begin(program, 'upgrade', '--service', program.name, '--timeout', '8s')
      const { upgrade } = await program.statusWhere(
        'the next version listens on another port',
        // Until its first server listens it has reported no step.
        ({ upgrade }) => upgrade?.missing?.includes('as the version that serves does') ?? false,
      )
      const address = `tcp://[::]:${program.port}`
      const missing = `it does not listen on ${address}, as the version that serves does (to give that up: fd-broker upgrade --without '${address}')`
      expect(upgrade).toEqual({
        pid: expect.any(Number),
        phase: 'offering',
        missing,
        leftMs: expect.any(Number),
      })
      expect((await program.sandbox.run('status', '--control', program.control)).stdout).toContain(
        `process ${upgrade!.pid}, phase offering: ${missing}\n`,
      )
      const { code, stderr } = await ended
      expect(code).toBe(1)
      expect(stderr).toMatch(
        /^process \d+, the next version, does not serve yet: it does not listen on \S+, as the version that serves does .*; its log is \S+\/shop\.\d+\.log; waiting for at most [23] s more\nERR_FDB_DEADLINE: /,
      )
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY)('shows on a terminal what it waits for', async () => {
    const program = await AutoProgram.of(
      `setTimeout(async () => {\n${SERVER.replace(/^import.*$/m, "const { default: http } = await import('node:http')")}}, 1500)\n`,
    )
    const line = words(program, startWords(program))
    const { stdout } = await program.sandbox.runCommand([
      'script',
      '-qec',
      line.map(word => `'${word}'`).join(' '),
      '/dev/null',
    ])
    expect(stdout).toMatch(/[|/\\-] waiting for server\.mjs \(pid \d+\) to serve, 1\.\d s\r/)
    expect(stdout).toMatch(/generation 1 of shop-\w+ \(pid \d+\) serves/)
    await program.command('stop')
  })

  it.runIf(NIGHTLY)('rotates a log by its size', async () => {
    const program = await AutoProgram.of(
      SERVER.replace("listens'", `listens'))\nsetInterval(() => console.log('x'.repeat(99)), 1`).replace(
        /\)\)\n$/,
        ')\n',
      ),
    )
    await start(program, '--log-size', '4k')
    const files = () => readdirSync(program.path('log')).filter(name => /\.log\.\d+$/.test(name))
    await until('old files are kept', () => files().length >= 3 || null)
    for (const name of files()) expect(statSync(join(program.path('log'), name)).size).toBeLessThan(64 * 1024)
    await program.command('stop')
  })

  it('starts what survives the end of its terminal and of the process that has its output', async () => {
    const program = await AutoProgram.of(`${SERVER}setInterval(() => console.log('still there'), 20)\n`)
    const line = words(program, startWords(program, 'log/shop.log'))
    const terminal = spawn('script', ['-qec', line.map(word => `'${word}'`).join(' '), '/dev/null'], {
      env: program.sandbox.env,
    })
    onTestFinished(() => void terminal.kill('SIGKILL'))
    const pid = await program.serves(1)
    terminal.kill('SIGKILL')
    await program.answeredBy(pid)
    const writer = readdirSync('/proc').find(
      name =>
        /^\d+$/.test(name) &&
        /write-log.*shop/.test(procText(Number(name), 'cmdline').replaceAll('\0', ' ')) &&
        procText(Number(name), 'cmdline').includes(program.sandbox.folder),
    )
    signalPid(Number(writer), 'SIGKILL')
    await program.statusWhere('its output is dropped', ({ droppedOutput }) => (droppedOutput ?? 0) > 2)
    expect((await program.sandbox.run('status', '--control', program.control)).stdout).toMatch(
      /\d+ writes were dropped: the process that writes its log has ended; the next version has a new one/,
    )
    await program.answeredBy(pid)
  })
})

describe('fd-broker stop', () => {
  it.runIf(NIGHTLY)('says at Ctrl-C that the process was told to end', async () => {
    const program = await AutoProgram.of(
      SERVER.replace("response.end('pid ' + process.pid)", 'response.write("begun")'),
    )
    const { pid } = await start(program)
    const answer = await fetch(program.url)
    const { command: run, ended } = begin(program, 'stop', '--service', program.name)
    // A shell is replaced by the command, which then watches the process.
    const fds = `/proc/${run.pid}/fd`
    await until(
      'it waits',
      () => readdirSync(fds).some(fd => linkOf(`${fds}/${fd}`).includes('pidfd')) || null,
    )
    run.kill('SIGINT')
    const { stderr, ...end } = await ended
    // On a busy machine the command waits long enough to tell for which connection.
    expect({ ...end, stderr: stderr.replace(/^process \d+ waits for .*\n/m, '') }).toEqual({
      code: 130,
      stdout: '',
      stderr: `SIGINT: no longer waiting; process ${pid} was told to end, and ends after its last connection\n`,
    })
    expect(hasEnded(pid)).toBe(false)
    await answer.body?.cancel()
    await program.ends(pid)
  })
})

describe('fd-broker logs', () => {
  it.runIf(NIGHTLY)(
    'shows the version that serves again after a rollback, and still the one that was given up',
    async () => {
      const program = await AutoProgram.of(SERVER)
      const first = await start(program)
      const second = await start(program)
      expect(await linesOf(program, '-n', '1')).toEqual([`${second.pid} listens`])
      expect(await program.sandbox.run('rollback', '--control', program.control)).toMatchObject({ code: 0 })
      await program.answeredBy(first.pid, '/again')
      await until(
        'its line is shown',
        async () => (await linesOf(program, '-n', '1')).includes(`${first.pid} is asked /again`) || null,
      )
      expect(await linesOf(program, '--generation', '2')).toEqual([`${second.pid} listens`])
      await program.command('stop')
    },
  )

  it('names the logs that exist if no service is named and none runs', async () => {
    const program = await AutoProgram.of('')
    const user = process.geteuid?.() === 0 ? UNPRIVILEGED : []
    chmodSync(program.sandbox.folder, 0o755)
    const env = ['env', `XDG_STATE_HOME=${program.path('state')}`]
    const control = program.path('none.sock')
    const logs = () =>
      program.sandbox.runCommand([...user, ...env, ...words(program, ['logs', '--control', control])])
    const folder = program.path('state/fd-broker')
    const none = `ERR_FDB_NO_HOLDER: no service answers at ${control}`
    expect(await logs()).toEqual({
      code: 3,
      stdout: '',
      stderr: `${none}; there is no log in ${folder}: give --service NAME, or --log-file\n`,
    })
    for (const name of ['shop', 'edge'])
      program.write(`state/fd-broker/${name}.20260131120000000.log`, 'a line\n')
    expect((await logs()).stderr).toBe(`${none}; ${folder} has logs of edge, shop: give --service NAME\n`)
    for (const name of 'abcdef') program.write(`state/fd-broker/${name}.20260131120000000.log`, 'a line\n')
    expect((await logs()).stderr).toBe(
      `${none}; ${folder} has logs of a, b, c, d, e and 3 more: give --service NAME\n`,
    )
  })

  it('says that this user may not ask the service, not that none answers', async () => {
    const program = await AutoProgram.of('')
    const user = process.geteuid?.() === 0 ? UNPRIVILEGED : []
    chmodSync(program.sandbox.folder, 0o755)
    const running = createServer().listen(program.control)
    await once(running, 'listening')
    chmodSync(program.control, 0)
    const env = ['env', `XDG_STATE_HOME=${program.path('state')}`]
    const logs = words(program, ['logs', '--control', program.control])
    expect(await program.sandbox.runCommand([...user, ...env, ...logs])).toEqual({
      code: 5,
      stdout: '',
      stderr: `ERR_FDB_DENIED: cannot connect to the control socket ${program.control} (EACCES): run as the user who owns it, or have its owner grant access\n`,
    })
    running.close()
    await once(running, 'close')
  })

  it('shows the log of a killed service that is the only one', async () => {
    const program = await AutoProgram.of(SERVER)
    const user = process.geteuid?.() === 0 ? UNPRIVILEGED : []
    chmodSync(program.sandbox.folder, 0o755)
    program.write(`state/fd-broker/${program.name}.20260131120000000.log`, 'its last words\n')
    const killed = createServer().listen(program.control)
    await once(killed, 'listening')
    // A killed process leaves its socket behind.
    linkSync(program.control, program.path('run/left.sock'))
    killed.close()
    await once(killed, 'close')
    renameSync(program.path('run/left.sock'), program.control)
    const env = ['env', `XDG_STATE_HOME=${program.path('state')}`, `FD_BROKER_CONTROL=${program.control}`]
    expect(await program.sandbox.runCommand([...user, ...env, ...words(program, ['logs'])])).toEqual({
      code: 0,
      stdout: 'its last words\n',
      stderr: '',
    })
  })

  it.runIf(NIGHTLY)('has the generations of the last run only; keeps the files of earlier runs', async () => {
    const program = await AutoProgram.of(SERVER)
    await start(program)
    await start(program)
    await program.command('stop')
    const last = await start(program)
    expect(await linesOf(program, '--generation', '1')).toEqual([`${last.pid} listens`])
    const { code, stderr } = await command(program, 'logs', '--service', program.name, '--generation', '2')
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: `ERR_FDB_OPTION: there is no log ${program.path('log/shop.generation-2.log')}: fd-broker start did not start generation 2 of this run, or its log is too old; files of earlier runs are in ${program.path('log')}; give --log-file\n`,
    })
    expect(readdirSync(program.path('log')).filter(name => /^shop\.\d+\.log$/.test(name))).toHaveLength(3)
    await program.command('stop')
  })

  it.runIf(NIGHTLY)('keeps the files of ten versions, with those that have not served', async () => {
    const program = await AutoProgram.of(SERVER)
    await start(program)
    const parts = () => readdirSync(program.path('log')).filter(name => /^shop\.\d+\.log$/.test(name))
    const [first] = parts()
    for (let old = 10; old < 30; old++) program.write(`log/shop.202001010000000${old}.log`, 'failed\n')
    const second = await start(program)
    expect(parts()).toHaveLength(10)
    expect(parts()).toContain(first)
    expect(await linesOf(program, '--generation', '2')).toEqual([`${second.pid} listens`])
    await program.command('stop')
  })

  it.runIf(NIGHTLY)(
    'shows the output of the service at a control path if another service has the same log',
    async () => {
      const [program, other] = [await AutoProgram.of(SERVER), await AutoProgram.of(SERVER)]
      const { pid } = await start(program)
      expect(
        await command(other, ...startWords(other), '--log-file', program.path('log/shop.log')),
      ).toMatchObject({
        code: 0,
      })
      expect(await program.sandbox.run('logs', '--control', program.control)).toMatchObject({
        code: 0,
        stdout: `${pid} listens\n`,
      })
      await other.command('stop')
      await program.command('stop')
    },
  )

  it.runIf(NIGHTLY)(
    'shows no log of another run if the service was not started by fd-broker start',
    async () => {
      const program = await AutoProgram.of(SERVER)
      await program.serve()
      const state = ['env', `XDG_STATE_HOME=${program.path('state')}`]
      const logs = words(program, ['logs', '--control', program.control])
      const refusal = () => program.sandbox.runCommand([...state, ...logs])
      expect(await refusal()).toEqual({
        code: 2,
        stdout: '',
        stderr: expect.stringMatching(/was not started by fd-broker start(?!.*another run)/),
      })
      // The logs of root are in /var/log, where a test leaves nothing.
      if (process.geteuid?.() === 0) return
      program.write(`state/fd-broker/${program.name}.20260131120000000.log`, 'of another run\n')
      expect(await refusal()).toEqual({
        code: 2,
        stdout: '',
        stderr: expect.stringMatching(/was not started by fd-broker start.* is the log of another run/),
      })
    },
  )

  it('shows the output of a version that has not served yet', async () => {
    const program = await AutoProgram.of("console.log('begins')\nsetInterval(() => {}, 1000)\n")
    const { command: run, ended } = begin(program, ...startWords(program))
    await until('the program runs', () => logOf(program).includes('begins') || null)
    expect(await command(program, 'logs', '--log-file', program.path('shop.log'))).toEqual({
      code: 0,
      stdout: 'begins\n',
      stderr: '',
    })
    run.kill('SIGINT')
    await ended
  })
})

describe('fd-broker logs --follow', () => {
  it.runIf(NIGHTLY)(
    'goes on with the output of the next version, and with what the previous one still prints',
    async () => {
      const program = await AutoProgram.of(
        `${SERVER}setInterval(() => console.log(process.pid + ' works'), 100)\n`,
      )
      const first = await start(program)
      const [file = '', ...args] = words(program, ['logs', '--service', program.name, '-f'])
      const follower = spawn(file, args, { env: program.sandbox.env })
      onTestFinished(() => void follower.kill('SIGKILL'))
      let shown = ''
      follower.stdout.setEncoding('utf8').on('data', text => (shown += text))
      const shows = (what: RegExp) =>
        until(
          `${what} is shown`,
          () => what.test(shown) || null,
          10_000,
          () => shown,
        )
      await shows(new RegExp(`^${first.pid} listens`, 'm'))
      const second = await start(program)
      await program.answeredBy(second.pid, '/two')
      await shows(
        new RegExp(
          `\\n==> .*shop\\.\\d+\\.log <==\\n[^]*${second.pid} is asked /two\\n[^]*==>.*\\n${first.pid} works`,
        ),
      )
      await program.command('stop')
    },
  )

  it('shows a line whole that is written in two parts, and the output in rotated files by its next look, and says what is gone', async () => {
    const sandbox = Sandbox.open()
    const log = sandbox.file('big.log')
    writeFileSync(log, 'zero\non')
    const words = [CLI, 'logs', '--log-file', log, '--follow']
    const follower = spawn(process.execPath, words, { env: sandbox.env })
    onTestFinished(() => void follower.kill('SIGKILL'))
    let [shown, notes] = ['', '']
    follower.stdout.setEncoding('utf8').on('data', text => (shown += text))
    follower.stderr.setEncoding('utf8').on('data', text => (notes += text))
    const rotate = (text: string) => {
      for (let count = 4; count > 0; count--)
        if (existsSync(`${log}.${count}`)) renameSync(`${log}.${count}`, `${log}.${count + 1}`)
      renameSync(log, `${log}.1`)
      writeFileSync(log, `${text}\n`)
    }
    /** Until then the follower does not look. */
    const rotated = async (...texts: string[]) => {
      follower.kill('SIGSTOP')
      for (const text of texts) rotate(text)
      follower.kill('SIGCONT')
      await until(
        'the last is shown',
        () => shown.endsWith(`${texts.at(-1)}\n`) || null,
        10_000,
        () => shown,
      )
    }
    await until('the first lines are shown', () => shown === 'zero\non' || null)
    appendFileSync(log, 'e\ntwo\n')
    await rotated('three', 'four', 'five')
    expect([shown, notes]).toEqual(['zero\none\ntwo\nthree\nfour\nfive\n', ''])
    await rotated('6', '7', '8', '9', '10', '11', '12')
    expect([shown, notes]).toEqual([
      'zero\none\ntwo\nthree\nfour\nfive\n7\n8\n9\n10\n11\n12\n',
      `output is missing here: ${log} was rotated more often than its files are kept\n`,
    ])
  })
})
