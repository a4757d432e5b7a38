import { chmodSync, mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import * as operator from '../processes/operator.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const SERVER = `import http from 'node:http'
const port = Number(process.env.OTHER_PORT ?? 8080)
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(port)
`

async function answerOf(url: string): Promise<string> {
  const answer = await until(`${url} answers`, () =>
    fetch(url, { headers: { connection: 'close' } }).catch(() => null),
  )
  return await answer.text()
}

/** Times that the text has in it. */
function count(text: string, part: string): number {
  return text.split(part).length - 1
}

describe('a program under fd-broker/auto runs as without it, and says why once,', () => {
  it('if its control socket cannot be made', async () => {
    const program = await AutoProgram.of(SERVER)
    const pid = await program.launch('import', { FD_BROKER_CONTROL: '/proc/none/shop.sock' })
    expect(await answerOf(program.url)).toBe(`pid ${pid}`)
    await program.says('runs without upgrades')
    expect(program.output).toMatch(/^fd-broker: this process runs without upgrades: .*\n$/)
    signalPid(pid, 'SIGTERM')
    await program.ends(pid)
  })

  it.runIf(NIGHTLY)('if another program has a service of that name', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve()
    program.write('index.mjs', SERVER)
    const other = await program.sandbox.launch([
      ...[
        'sh',
        '-c',
        `cd ${program.sandbox.folder} && exec "$@"`,
        'sh',
        'env',
        `RUNTIME_DIRECTORY=${program.path('run')}`,
      ],
      ...['OTHER_PORT=0', 'node', '--import', 'fd-broker/auto', 'index.mjs'],
    ])
    await program.says(`"${program.name}" is the service of another program, ${program.path('server.mjs')}`)
    expect([hasEnded(first), hasEnded(other)]).toEqual([false, false])
    expect((await operator.status(program.control)).generation).toBe(1)
  })

  it('if it is the same program on another port', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve()
    const second = await program.launch('import', { OTHER_PORT: '0', FD_BROKER_QUIET: '200ms' })
    await program.says(`another process serves "${program.name}" on other addresses`)
    expect([hasEnded(first), hasEnded(second)]).toEqual([false, false])
    expect(await answerOf(program.url)).toBe(`pid ${first}`)
    expect((await operator.status(program.control)).generation).toBe(1)
  })

  it.each([
    ['node --watch', ['node', '--watch']],
    ...perLane<[string, string[]][]>(
      [],
      [['tsx watch', [fileURLToPath(new URL('../../node_modules/.bin/tsx', import.meta.url)), 'watch']]],
    ),
  ])('under %s, whose edits restart it', async (name, command) => {
    const program = await AutoProgram.of(SERVER)
    await program.sandbox.launch([
      ...['sh', '-c', `cd ${program.sandbox.folder} && exec "$@"`, 'sh', 'env'],
      ...[`RUNTIME_DIRECTORY=${program.path('run')}`, ...command, '--import', 'fd-broker/auto', 'server.mjs'],
    ])
    expect(await answerOf(program.url)).toMatch(/^pid/)
    await program.says(`fd-broker: ${name} restarts this program`)
    for (let edit = 1; edit <= perLane(2, 10); edit++) {
      program.write('server.mjs', SERVER.replace("'pid '", `'edit ${edit}, pid '`))
      await until(
        `edit ${edit} answers`,
        async () => (await answerOf(program.url)).startsWith(`edit ${edit},`) || null,
      )
    }
    await expect(operator.status(program.control, 1)).rejects.toMatchObject({ code: 'ERR_FDB_NO_HOLDER' })
  })

  it('under pm2, which starts the program in a script of its own', async () => {
    const program = await AutoProgram.of(SERVER)
    const container = 'node_modules/pm2/lib/ProcessContainerFork.js'
    program.write(container, `import('${program.path('server.mjs')}')\n`)
    await program.sandbox.launch([
      ...['sh', '-c', `cd ${program.sandbox.folder} && exec "$@"`, 'sh', 'env'],
      ...[`RUNTIME_DIRECTORY=${program.path('run')}`, 'node', '--import', 'fd-broker/auto', container],
    ])
    expect(await answerOf(program.url)).toMatch(/^pid/)
    await program.says('fd-broker: pm2 starts this program, not fd-broker run')
  })

  it('with node:cluster', async () => {
    const program = await AutoProgram.of(`import cluster from 'node:cluster'
import http from 'node:http'
if (cluster.isPrimary) for (const count of [1, 2]) cluster.fork()
else http.createServer((request, response) => response.end('worker ' + cluster.worker.id)).listen(8080)
`)
    await program.launch('options')
    const answers = new Set<string>()
    await until('both workers answer', async () => {
      answers.add(await answerOf(program.url))
      return answers.size === 2 || null
    })
    expect(program.output).toMatch(/^fd-broker: servers of node:cluster are not handed over.*\n$/)
    await expect(operator.status(program.control, 1)).rejects.toMatchObject({ code: 'ERR_FDB_NO_HOLDER' })
  })

  it('of a UDP socket', async () => {
    const program = await AutoProgram.of(
      `import dgram from 'node:dgram'\nfor (const count of [1, 2]) dgram.createSocket({ type: 'udp4', reuseAddr: true }).bind(8080)\n${SERVER}`,
    )
    const pid = await program.serve()
    await program.says(/^fd-broker: the UDP port \d+ is not handed over.*\n$/)
    expect(await answerOf(program.url)).toBe(`pid ${pid}`)
  })

  it.each([
    [
      'FD_BROKER_QUIET',
      '600h',
      'give a duration from 0ms to 596h (24.8 days), with its unit: 500ms, 30s, 2m, 1h',
    ],
    ...perLane(
      [],
      [
        [
          'FD_BROKER_DRAIN',
          '30',
          'give a duration from 0ms to 596h (24.8 days), with its unit: 500ms, 30s, 2m, 1h',
        ],
        [
          'FD_BROKER_PROBATION',
          'soon',
          'give a duration from 0ms to 596h (24.8 days), with its unit: 500ms, 30s, 2m, 1h',
        ],
        ['FD_BROKER_LOG', 'verbose', 'give "debug", "info" or "warn"'],
      ],
    ),
    ['FD_BROKER_AUTO', 'never', 'give "on" or "off"'],
  ])('if %s is %s', async (name, value, remedy) => {
    const program = await AutoProgram.of(SERVER)
    const pid = await program.launch('import', { [name]: value })
    expect(await answerOf(program.url)).toBe(`pid ${pid}`)
    expect(program.output).toBe(
      `fd-broker: this process runs without upgrades: ${name} is "${value}": ${remedy}\n`,
    )
  })

  it.each(perLane(['off'], ['off', 'no', 'False', '0']))(
    'where it is switched off by %s, and says nothing',
    async word => {
      const program = await AutoProgram.of(SERVER)
      const pid = await program.launch('import', { FD_BROKER_AUTO: word, FD_BROKER_DRAIN: 'wrong' })
      expect(await answerOf(program.url)).toBe(`pid ${pid}`)
      expect(program.output).toBe('')
    },
  )
})

describe('a program under fd-broker/auto', () => {
  it('names the variable that a misspelled one may stand for', async () => {
    const program = await AutoProgram.of(SERVER)
    await program.serve('import', 1, {
      FD_BROKER_NAM: 'other',
      FD_BROKER_OWN_USE: '1',
      FD_BROKER_LOG: 'warn',
    })
    expect(program.output).toBe(
      'fd-broker: FD_BROKER_NAM is not a setting and is ignored: did you mean FD_BROKER_NAME?\n',
    )
  })

  it('has its control socket among the temporary files if its user has no other place, where commands find it', async () => {
    const program = await AutoProgram.of(SERVER)
    const temporary = program.path('temporary')
    mkdirSync(temporary, { mode: 0o1777 })
    chmodSync(temporary, 0o1777)
    chmodSync(program.sandbox.folder, 0o755)
    // Not root, which may write to /run.
    const user =
      process.geteuid?.() === 0 ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'] : []
    const place = [...user, 'env', '-u', 'RUNTIME_DIRECTORY', '-u', 'XDG_RUNTIME_DIR', `TMPDIR=${temporary}`]
    const within = ['sh', '-c', `cd ${program.sandbox.folder} && exec "$@"`, 'sh', ...place]
    const pid = await program.sandbox.launch([...within, 'node', '--import', 'fd-broker/auto', 'server.mjs'])
    expect(await answerOf(program.url)).toBe(`pid ${pid}`)
    const cli = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
    const status = await until(
      'it is found',
      async () => {
        const ran = await program.sandbox.runCommand([
          ...within,
          'node',
          cli,
          'status',
          '--service',
          program.name,
          '--json',
        ])
        return ran.code === 0 ? (JSON.parse(ran.stdout) as StatusReport) : null
      },
      10_000,
      () => program.output,
    )
    expect(status).toMatchObject({ pid, generation: 1 })
    expect(program.output).toBe('')
  })

  it('ends as without it if it listens to nothing, also while another version serves', async () => {
    const program = await AutoProgram.of(`if (process.argv[2] === '--help') console.log('help')
else await import('node:http').then(http => http.createServer((_, response) => response.end('pid ' + process.pid)).listen(8080))
`)
    const first = await program.serve()
    const help = { code: 0, stdout: 'help\n', stderr: '' }
    expect(await program.run('import', {}, ['--help'])).toEqual(help)
    if (NIGHTLY) expect(await program.run('require', {}, ['--help'])).toEqual(help)
    expect(await answerOf(program.url)).toBe(`pid ${first}`)
  })

  it('has children that listen, which are no versions of it', async () => {
    const program = await AutoProgram.of(`import { fork } from 'node:child_process'
import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid))
if (process.send) server.listen(0, () => process.send('listens'))
else server.listen(8080, () => setTimeout(() => fork(import.meta.filename).on('message', text => console.log(text, process.pid)), 300))
`)
    const first = await program.serve('options')
    await program.says(`listens ${first}`)
    expect((await operator.status(program.control)).generation).toBe(1)
    expect(await answerOf(program.url)).toBe(`pid ${first}`)
    expect(count(program.output, 'fd-broker')).toBe(0)
  })

  it('takes over when it answers at the path that FD_BROKER_READY names', async () => {
    const program = await AutoProgram.of(`import http from 'node:http'
import { existsSync } from 'node:fs'
const server = http.createServer((request, response) => {
  response.statusCode = request.url === '/health' && !existsSync('well') ? 503 : 200
  response.end('pid ' + process.pid)
})
server.listen(8080, () => console.log('listens ' + process.pid))
`)
    program.write('well', '')
    const first = await program.serve('import', 1, { FD_BROKER_READY: '/health' })
    const { rmSync } = await import('node:fs')
    rmSync(program.path('well'))
    const second = await program.launch('import', { FD_BROKER_READY: '/health' })
    await program.says(`listens ${second}`)
    // Both have the socket: the next version must not accept on it before its commit.
    for (let asked = 0; asked < 50; asked++) {
      const answer = await fetch(program.url, { headers: { connection: 'close' } })
      expect(await answer.text()).toBe(`pid ${first}`)
    }
    program.write('well', '')
    expect(await program.serves(2)).toBe(second)
  })

  it('takes over when it calls ready(), if FD_BROKER_READY says so', async () => {
    const program = await AutoProgram.of(`import http from 'node:http'
import { ready } from 'fd-broker/auto'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
process.on('SIGUSR2', ready)
console.log('waits ' + process.pid)
`)
    for (const generation of [1, 2]) {
      const pid = await program.launch('import', { FD_BROKER_READY: 'call' })
      await program.says(`waits ${pid}`)
      signalPid(pid, 'SIGUSR2')
      expect(await program.serves(generation)).toBe(pid)
    }
  })
})
