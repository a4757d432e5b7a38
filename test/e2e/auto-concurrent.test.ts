import { writeFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { hasEnded, signalPid } from '../processes/launch.js'
import { AutoProgram } from './auto-program.js'

/** Listens when the file in WAITS exists, and at its second address when that in WAITS_AGAIN exists. */
const PROGRAM = `import { existsSync, readFileSync } from 'node:fs'
import http from 'node:http'
const made = async file => {
  console.log(process.pid, 'waits for', file)
  while (!existsSync(file)) await new Promise(resolve => setTimeout(resolve, 20))
}
const [first, second] = readFileSync('waits', 'utf8').split(' ')
if (first) await made(first)
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
if (second) await made(second)
http.createServer().listen('second.sock')
`
const LONG = { FD_BROKER_PROBATION: '3s' }

async function served(): Promise<{ readonly program: AutoProgram; readonly first: number }> {
  const program = await AutoProgram.of(PROGRAM)
  program.write('waits', '')
  return { program, first: await program.serve('import', 1, LONG) }
}

/** Launches a version that waits for this file. */
async function waiting(program: AutoProgram, waits: string): Promise<number> {
  program.write('waits', waits)
  const pid = await program.launch('import', LONG)
  await program.says(`${pid} waits for ${waits.trim()}`)
  return pid
}

it('under fd-broker/auto a version ends, and says why, if another version is joining: it would run beside the service', async () => {
  const { program, first } = await served()
  const second = await waiting(program, ' again')
  await program.statusWhere('it joins', ({ phase }) => phase === 'offering')
  program.write('waits', '')
  const { code, stderr } = await program.run('import', LONG)
  expect(stderr).toMatch(
    /^fd-broker: this version does not serve: ERR_FDB_BUSY: a handoff is under way .*\n$/,
  )
  expect(code).toBe(1)
  expect(hasEnded(first)).toBe(false)
  writeFileSync(program.path('again'), '')
  await program.answeredBy(second)
})

it('under fd-broker/auto a version that an upgrade has started is no child of the program, although another one has taken over meanwhile', async () => {
  const { program, first } = await served()
  const other = await waiting(program, 'other')
  program.write('waits', 'own')
  const upgrade = program.command('upgrade')
  await program.says(/(\d+) waits for own/)
  const [, own] = /(\d+) waits for own/.exec(program.output)!
  writeFileSync(program.path('other'), '')
  await program.answeredBy(other)
  await upgrade
  expect(hasEnded(first)).toBe(false)
  writeFileSync(program.path('own'), '')
  await program.answeredBy(Number(own))
})

it('under fd-broker/auto a next version that does not get ready ends at its limit also if the previous version has died: a later one serves', async () => {
  const { program, first } = await served()
  program.write('waits', ' never')
  const second = await program.launch('import', { ...LONG, FD_BROKER_READY_TIMEOUT: '1s' })
  await program.statusWhere('it joins', ({ phase }) => phase === 'offering')
  signalPid(first, 'SIGKILL')
  await program.ends(second)
  expect(program.output).toContain(
    `fd-broker: this version does not serve: process ${second} was not ready within 1000 ms, and the previous version has ended`,
  )
  program.write('waits', '')
  await program.serve('import', 1)
})
