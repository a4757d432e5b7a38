import { spawn } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { hasEnded, signalPid } from '../processes/launch.js'
import { procText } from '../processes/marked.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import type { Ran } from './cli-processes.js'

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
  const folder = ['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', program.desk.folder]
  return [...folder, 'env', place, process.execPath, CLI, ...args]
}

/** `fd-broker …` in the program's folder. */
function command(program: AutoProgram, ...args: string[]): Promise<Ran> {
  return program.desk.runCommand(words(program, args))
}

/** Starts it; what is printed as JSON. */
async function start(program: AutoProgram, ...args: string[]): Promise<{ pid: number; generation: number }> {
  const options = ['--log-file', program.path('log/shop.log'), '--json']
  const { code, stdout, stderr } = await command(program, 'start', 'server.mjs', ...options, ...args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

async function linesOf(program: AutoProgram, ...args: string[]): Promise<string[]> {
  const { stdout, stderr } = await command(program, 'logs', '--service', 'shop', ...args)
  expect(stderr).toBe('')
  return stdout.split('\n').slice(0, -1)
}

describe('fd-broker start', () => {
  it('serves in the background, upgrades when it is called again, and has the output of each generation', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    expect(first).toMatchObject({ generation: 1, service: 'shop', control: program.control })
    expect(Number(program.read('run/shop.pid'))).toBe(first.pid)
    await program.answeredBy(first.pid, '/one')
    const second = await start(program)
    expect(second.generation).toBe(2)
    await program.answeredBy(second.pid, '/two')
    await program.command('upgrade')
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
    await program.command('stop')
    expect(hasEnded(third)).toBe(true)
    expect(program.read('run/shop.pid')).toBe('')
  })

  it('says why a program does not serve, with its last lines', async () => {
    const program = await AutoProgram.of("throw new Error('a mistake')\n")
    const { code, stderr } = await command(
      program,
      'start',
      'server.mjs',
      '--log-file',
      program.path('shop.log'),
    )
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /ERR_FDB_SUCCESSOR_EXITED: server\.mjs \(pid \d+\) ended with code 1 before it served/,
    )
    expect(stderr).toContain('Error: a mistake')
  })

  it('rotates a log by its size', async () => {
    const program = await AutoProgram.of(
      SERVER.replace("listens'", `listens'))\nsetInterval(() => console.log('x'.repeat(99)), 1`).replace(
        /\)\)\n$/,
        ')\n',
      ),
    )
    await start(program, '--log-size', '4K')
    const files = () => readdirSync(program.path('log')).filter(name => /\.log\.\d+$/.test(name))
    await until('old files are kept', () => files().length >= 3 || null)
    for (const name of files()) expect(statSync(join(program.path('log'), name)).size).toBeLessThan(64 * 1024)
    await program.command('stop')
  })

  it('starts what survives the end of its terminal and of the process that has its output', async () => {
    const program = await AutoProgram.of(`${SERVER}setInterval(() => console.log('still there'), 20)\n`)
    const line = words(program, ['start', 'server.mjs', '--log-file', program.path('log/shop.log')])
    const terminal = spawn('script', ['-qec', line.map(word => `'${word}'`).join(' '), '/dev/null'], {
      env: program.desk.env,
    })
    onTestFinished(() => void terminal.kill('SIGKILL'))
    const pid = await program.serves(1)
    terminal.kill('SIGKILL')
    await program.answeredBy(pid)
    const writer = readdirSync('/proc').find(
      name =>
        /^\d+$/.test(name) &&
        /write-log.*shop/.test(procText(Number(name), 'cmdline').replaceAll('\0', ' ')) &&
        procText(Number(name), 'cmdline').includes(program.desk.folder),
    )
    signalPid(Number(writer), 'SIGKILL')
    await program.statusWhere('its output is dropped', ({ droppedOutput }) => (droppedOutput ?? 0) > 2)
    await program.answeredBy(pid)
  })
})

describe('fd-broker logs --follow', () => {
  it('goes on with the output of the next version', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await start(program)
    const [file = '', ...args] = words(program, ['logs', '--service', 'shop', '-f'])
    const follower = spawn(file, args, { env: program.desk.env })
    onTestFinished(() => void follower.kill('SIGKILL'))
    let shown = ''
    follower.stdout.setEncoding('utf8').on('data', text => (shown += text))
    await until('the first is shown', () => shown.includes(`${first.pid} listens`) || null)
    const second = await start(program)
    await program.answeredBy(second.pid, '/two')
    await until(
      'the second is shown',
      () => shown.includes(`${second.pid} is asked /two`) || null,
      10_000,
      () => shown,
    )
    expect(shown).toMatch(/\n==> .*shop\.\d+\.log <==\n/)
    await program.command('stop')
  })
})
