import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { openFds } from '../processes/descriptors.js'
import { signalPid } from '../processes/launch.js'
import { procText } from '../processes/marked.js'
import { PidNamespace } from '../processes/namespace.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const TSX = fileURLToPath(import.meta.resolve('tsx/cli'))
const BY_VARIABLE = { NODE_OPTIONS: '--import fd-broker/auto', FD_BROKER_PROBATION: '0' }
/** Its cleanup takes longer than tsx waits for a child that does not answer. */
const SERVER = `import { appendFileSync } from 'node:fs'
import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
for (const signal of ['SIGINT', 'SIGTERM'])
  process.on(signal, () => {
    appendFileSync('journal', signal + ' ' + process.pid + '\\n')
    server.close()
    setTimeout(() => {
      appendFileSync('journal', 'clean ' + process.pid + '\\n')
      process.exit(0)
    }, 300)
  })
`

function childOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'))
}

/** Upgrades it, and waits until what keeps the place of the first version does so without Node. */
async function upgraded(program: AutoProgram, first: number, seenHere = first): Promise<number> {
  await program.command('upgrade')
  const second = await program.serves(2)
  await until('it waits without Node', () => {
    const status = procText(seenHere, 'status')
    const kib = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1])
    return (
      kib < 3 * 1024 && /^State:\s+S/m.test(status) && openFds(seenHere).includes('anon_inode:[signalfd]')
    )
  })
  return second
}

describe('a program under fd-broker/auto that a tool has started hears of the signal that ends the tool, once, and can clean up:', () => {
  it.each(
    perLane(
      [['SIGINT', 2] as const, ['SIGTERM', 1] as const],
      (['SIGINT', 'SIGTERM'] as const).flatMap(signal => [[signal, 1] as const, [signal, 2] as const]),
    ),
  )('tsx in a terminal, %s, generation %d', async (signal, generation) => {
    const program = await AutoProgram.of(SERVER.replace('server =', 'server: http.Server ='), 'server.ts')
    const script = spawn('script', ['-qefc', `exec node ${TSX} server.ts`, '/dev/null'], {
      cwd: program.desk.folder,
      env: { ...program.desk.env, ...program.place, ...BY_VARIABLE },
    })
    onTestFinished(() => void script.kill('SIGKILL'))
    const ended = once(script, 'exit')
    const first = await program.serves(1)
    const serving = generation === 1 ? first : await upgraded(program, first)
    if (signal === 'SIGINT') script.stdin.write('\x03')
    else signalPid(childOf(script.pid!), signal)
    await ended
    await program.ends(serving)
    const replaced = generation === 1 ? '' : `SIGTERM ${first}\nclean ${first}\n`
    expect(program.read('journal')).toBe(`${replaced}${signal} ${serving}\nclean ${serving}\n`)
    expect(program.desk.processes()).toEqual([])
  })

  it('npm start, whose script begins with exec, as PID 1 of a container, SIGTERM', async () => {
    const program = await AutoProgram.of(SERVER)
    program.write(
      'package.json',
      JSON.stringify({ name: program.name, scripts: { start: 'exec node server.mjs' } }),
    )
    const { env, log, folder } = program.desk
    const command = ['sh', '-c', 'cd "$1" && exec npm start', 'sh', folder]
    const container = await PidNamespace.start(command, {
      env: { ...env, ...program.place, ...BY_VARIABLE },
      log,
    })
    const first = await program.serves(1)
    const second = await upgraded(program, first, container.outside(first))
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
    expect(program.read('journal')).toBe(
      [first, second].map(pid => `SIGTERM ${pid}\nclean ${pid}\n`).join(''),
    )
  })
})
