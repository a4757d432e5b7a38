import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { AutoProgram } from './auto-program.js'

const LISTEN = `http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)`
/** With children of a pool, which are there before the program listens, and have no server. */
const POOL = `import { fork } from 'node:child_process'
import http from 'node:http'
if (process.argv[2] === 'child') process.on('disconnect', () => process.exit())
else {
  const children = [1, 2].map(() => fork(import.meta.filename, ['child']))
  process.on('SIGTERM', () => process.exit())
  process.on('exit', () => children.forEach(child => child.kill()))
  await Promise.all(children.map(child => new Promise(resolve => child.once('spawn', resolve))))
  setTimeout(() => ${LISTEN}, 200)
}
`
/** A tool that only starts the server, as cross-env and npm do; some listen for their own processes, as tsx does. */
const tool = (listens: string) => `import { spawn } from 'node:child_process'
import net from 'node:net'
${listens}
const child = spawn(process.execPath, ['server.mjs'], { stdio: 'inherit' })
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
child.on('exit', code => process.exit(code ?? 1))
`
const SOON = { FD_BROKER_PROBATION: '0' }

describe('under fd-broker/auto processes that never serve have no part in an upgrade:', () => {
  it.runIf(NIGHTLY)('children that the program forks before it listens', async () => {
    const program = await AutoProgram.of(POOL)
    const named = { ...SOON, FD_BROKER_NAME: program.name }
    await program.serve('options', 1, named)
    for (let generation = 2; generation <= perLane(3, 9); generation++) {
      await program.command('upgrade')
      await program.answeredBy(await program.serves(generation))
    }
    expect(program.output).toBe('')
  })

  it.each([
    ['only starts it', ''],
    ['listens at a path with its pid', "net.createServer().listen('tool-' + process.pid + '.sock').unref()"],
  ])('a tool that %s', async (_does, listens) => {
    const program = await AutoProgram.of(tool(listens), 'tool.mjs', {
      env: { ...SOON, NODE_OPTIONS: '--import fd-broker/auto' },
    })
    program.write('server.mjs', `import http from 'node:http'\n${LISTEN}\n`)
    const named = { FD_BROKER_NAME: program.name }
    await program.serve('nothing', 1, named)
    await program.launch('nothing', named)
    await program.answeredBy(await program.serves(2))
    expect(program.output).toBe('')
    await program.command('stop')
  })
})

/** A program that forks itself; its child listens when the program is asked for /child, and the answer is what came of that. */
const FORKS = (when: 'before' | 'later', env: string) => `import { fork } from 'node:child_process'
import http from 'node:http'
const answer = (request, response) => response.end('pid ' + process.pid)
const [, file, role] = process.argv
if (role === 'child') {
  process.on('disconnect', () => process.exit())
  process.on('message', address =>
    http.createServer(answer).on('error', error => process.send(error.code)).listen(address, () => process.send('listens')))
} else {
  process.on('SIGTERM', () => process.exit())
  const start = () => fork(file, ['child'], ${env})
  const early = ${when === 'before' ? 'start()' : 'null'}
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith('/child')) return answer(request, response)
    const child = early ?? start()
    child.once('message', text => response.end(text))
    child.send(request.url === '/child' ? 8080 : '.' + request.url + '.sock')
  }).listen(8080)
}
`
const OWN_ENVIRONMENT =
  '{ env: { PATH: process.env.PATH, RUNTIME_DIRECTORY: process.env.RUNTIME_DIRECTORY } }'

describe('under fd-broker/auto a child that the program forks, and that listens, is no next version of it,', () => {
  it.each([
    ['forked before the program listens', 'before', '{}'],
    ['forked later, with an environment of its own', 'later', OWN_ENVIRONMENT],
  ] as const)('%s', async (_which, when, env) => {
    const program = await AutoProgram.of(FORKS(when, env), 'server.mjs', { env: SOON })
    await program.serve()
    for (const generation of [2, 3]) {
      const asked = async (path: string) => await (await fetch(`${program.url}${path}`)).text()
      expect(await asked('/child')).toBe('EADDRINUSE')
      expect(await asked(`/child-${generation}`)).toBe('listens')
      await program.command('upgrade')
      await program.answeredBy(await program.serves(generation))
    }
    expect(program.output).toBe('')
  })
})

it('a next version under fd-broker/auto that does not listen is named as the cause', async () => {
  const program = await AutoProgram.of(`import http from 'node:http'\n${LISTEN}\n`)
  const first = await program.serve()
  program.write('server.mjs', 'await new Promise(() => {})\n')
  const { code, stderr } = await program.sandbox.run('upgrade', '--control', program.control)
  expect(code).toBe(1)
  expect(stderr).toContain('ended with code 13: a top-level await of it never settled')
  await program.answeredBy(first)
})
