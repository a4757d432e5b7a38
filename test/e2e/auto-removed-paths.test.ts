import { existsSync, statSync } from 'node:fs'
import { expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

/** Removes its socket before it listens in each way that Node has, and when it ends. */
const REMOVES = `import { existsSync, promises, rm, rmSync, unlink, unlinkSync } from 'node:fs'
import http from 'node:http'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
const path = './web.sock'
const ways = [
  () => unlinkSync(path),
  () => rmSync(resolve(path), { force: true }),
  () => promises.unlink(pathToFileURL(resolve(path))),
  () => promises.rm(path, { force: true }),
  () => new Promise(done => unlink(Buffer.from(path), done)),
  () => new Promise(done => rm(path, {}, done)),
]
for (const remove of ways) if (existsSync(path)) console.log('removed: ' + (await remove()))
process.on('exit', () => { if (existsSync(path)) unlinkSync(path) })
process.on('SIGTERM', () => process.exit())
const options = { path, exclusive: process.env.EXCLUSIVE === 'yes' }
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(options)`

it('a program under fd-broker/auto that removes its Unix socket leaves it to the version that serves', async () => {
  const program = await AutoProgram.of(REMOVES, 'server.mjs', { env: { FD_BROKER_PROBATION: '300ms' } })
  const first = await program.serve()
  const { ino } = statSync(program.path('web.sock'))
  await program.upgradedWhileAsked(() => program.answerAt('web.sock'), 'import', { upgrades: perLane(2, 6) })
  expect(statSync(program.path('web.sock')).ino).toBe(ino)
  expect(program.output.match(/^removed: undefined$/gm)?.length).toBeGreaterThanOrEqual(6)
  expect(program.output).not.toContain('was removed')
  await program.ends(first)
  await program.command('stop')
  expect(existsSync(program.path('web.sock'))).toBe(false)
})

const ORDINARY = { what: 'an ordinary path', most: 0 }
const LONG = { what: 'a path that has no room for a longer name', most: 104 }

it.each(perLane([LONG], [ORDINARY, LONG]))(
  'a program under fd-broker/auto removes the Unix socket of a version that was killed: $what',
  async ({ most }) => {
    const program = await AutoProgram.of('')
    const name = 'web.sock'.padEnd(most - program.path('/').length, 'k')
    program.write('server.mjs', REMOVES.replace('web.sock', name))
    const first = await program.serve()
    signalPid(first, 'SIGKILL')
    await program.ends(first)
    const second = await program.serve('import', 1)
    expect(await program.answerAt(name)).toBe(`pid ${second}`)
    expect(program.output.match(/^removed: undefined$/gm)).toHaveLength(1)
  },
)

it('a program under fd-broker/auto that leaves its Unix socket out of upgrades cannot listen where a version serves', async () => {
  const program = await AutoProgram.of(REMOVES)
  const first = await program.serve()
  await program.ends(await program.launch('import', { EXCLUSIVE: 'yes' }))
  await program.says('EADDRINUSE')
  expect(await program.answerAt('web.sock')).toBe(`pid ${first}`)
})

it('a program under fd-broker/auto that removes its Unix socket until it is gone gets its way', async () => {
  const program = await AutoProgram.of(`import * as files from 'node:fs'
while (files.existsSync('web.sock')) files.unlinkSync('web.sock')
${REMOVES}`)
  await program.serve()
  await program.launch('import')
  const second = await program.serves(2)
  const answer = () => program.answerAt('web.sock').catch(() => '')
  await until('it answers', async () => (await answer()) === `pid ${second}` || null)
})

it('a second server of a program under fd-broker/auto cannot listen at the path of the first', async () => {
  const program = await AutoProgram.of(`${REMOVES}.on('listening', () => {
  http.createServer().on('error', ({ code }) => console.log('second: ' + code)).listen(path, () => console.log('second: listens'))
})\n`)
  await program.serve()
  await program.launch('import')
  await program.serves(2)
  await program.says(/second: EADDRINUSE\n(.*\n)*second: EADDRINUSE/)
  expect(program.output).not.toContain('second: listens')
})
