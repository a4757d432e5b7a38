import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

/** Says in lines all that it sees of its servers, and ends by itself. `HOLD` in its environment: it serves. */
const RECORD = `import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
const say = (...facts) => console.log(JSON.stringify(facts))
const facts = server => [server.listening, server.address()]
const serve = http.createServer((request, response) => response.end('pid ' + process.pid))
const returned = serve.listen(8080, function () {
  say('callback', this === serve, ...facts(serve))
})
say('returned', returned === serve, ...facts(serve), serve.listenerCount('error'))
await once(serve, 'listening')
say('listening', ...facts(serve))
try { serve.listen(8081) } catch (error) { say(error.code, error.message) }
const busy = net.createServer()
busy.once('error', error => say({ ...error }, error.message, ...facts(busy)))
busy.listen({ port: 8080 })
await once(busy, 'error').catch(() => {})
const paths = net.createServer(() => {}).listen('./own.sock')
say('path', ...facts(paths))
await once(paths, 'listening')
say('path listens', ...facts(paths))
const any = net.createServer().listen(0, '127.0.0.1')
say('any', ...facts(any))
await once(any, 'listening')
say('any listens', any.address().address, any.address().port > 0)
const named = http2.createServer().listen({ port: 0, host: 'localhost' }, () => say('named', named.address().family))
say('named', ...facts(named))
await once(named, 'listening')
for (const wrong of [[99_999], [{ port: -1 }], [{}], ['']]) {
  try { say(typeof net.createServer().listen(...wrong).close) } catch (error) { say(error.code, error.message) }
}
const nowhere = net.createServer().listen({ host: 'nowhere.invalid', port: 1 })
say((await once(nowhere, 'error').catch(error => [error]))[0]?.code)
const controller = new AbortController()
const aborted = net.createServer().listen({ port: 0, signal: controller.signal })
controller.abort()
await once(aborted, 'close')
say('aborted', ...facts(aborted))
const unreferenced = net.createServer().listen(0).unref()
say('unref', unreferenced.listening)
if (process.env.HOLD) await new Promise(() => setInterval(() => {}, 1_000))
for (const server of [paths, any, named, serve]) {
  say('close', server.close(error => say('closed', error?.code ?? null)) === server, ...facts(server))
  server.close(error => say('closed twice', error?.code ?? null))
  await once(server, 'close')
}
const again = serve.listen(8080)
await once(again, 'listening')
say('again', ...facts(again))
again.close()
`

/** Closes a server at a path after several times, in each of which its start may be, and listens there again. */
const PATHS = `import { existsSync } from 'node:fs'
import net from 'node:net'
import { setTimeout } from 'node:timers/promises'
for (const wait of [0, 5, 20, 60, 150, 400, 1000]) {
  const server = net.createServer()
  await new Promise((resolve, reject) => server.once('error', reject).listen('./own.sock', resolve))
  await setTimeout(wait)
  server.close()
  console.log(wait, existsSync('./own.sock'))
  await new Promise((resolve, reject) => server.once('error', reject).listen('./own.sock', resolve))
  await new Promise(resolve => server.close(resolve))
  console.log(wait, existsSync('./own.sock'))
}
const again = net.createServer()
await new Promise(resolve => again.listen('./own.sock', () => again.close(() => again.listen('./own.sock', resolve))))
await setTimeout(1000)
console.log('again', again.listening, existsSync('./own.sock'))
again.close()
console.log('again', existsSync('./own.sock'))
`

/** Lines that a run must have in common with a run without fd-broker. */
async function linesOf(
  program: AutoProgram,
  by: 'nothing' | 'import' | 'require' | 'options',
): Promise<string[]> {
  const { code, stdout, stderr } = await program.run(by)
  expect({ by, code, stderr }).toEqual({ by, code: 0, stderr: '' })
  return stdout.trim().split('\n')
}

/** Says all traces that a library could leave on objects of Node and of the program (.github/WATCHING.md). `HOLD` as above. */
const TRACES = `import dgram from 'node:dgram'
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
const say = (...facts) => console.log(JSON.stringify(facts))
const listeners = one => one.eventNames().filter(name => typeof name === 'string').sort().map(name => [name, one.rawListeners(name).length])
const keys = one => Object.keys(one).sort()
const method = ({ name, length }) => [name, length]
const enumerable = (one, name) => Object.getOwnPropertyDescriptor(one, name)?.enumerable ?? false
let serving = null
const server = http.createServer(async (request, response) => {
  say('request', listeners(request), listeners(response), listeners(request.socket), keys(request.socket))
  response.end('pid ' + process.pid)
})
server.on('upgrade', (request, socket) => socket.end())
const look = when => say(when, listeners(server), keys(server), method(server.listen), method(server.close), method(server.emit), listeners(process), keys(process).length, process.getMaxListeners())
look('made')
server.listen(8080)
await once(server, 'listening')
look('listening')
const udp = dgram.createSocket('udp4')
say('udp', listeners(udp), keys(udp), method(udp.bind), enumerable(udp, 'bind'))
udp.close()
const { value, ...flags } = Object.getOwnPropertyDescriptor(net.Server.prototype, 'listen')
say('prototype', flags, method(value), method(process.emit), enumerable(process, 'emit'))
// fd-broker joins meanwhile, as the first version does.
if (process.env.SERVED) while (!process.env.FD_BROKER_AUTO_PARENT) await pause(10)
await pause(300)
look('served')
await fetch('http://127.0.0.1:8080', { headers: { connection: 'close' } })
look('asked')
process.once('exit', code => say('exit', code, process.exitCode))
const warned = []
process.on('warning', warning => warned.push(warning.name))
while (process.listenerCount('exit') < EventEmitter.defaultMaxListeners) process.on('exit', () => {})
while (process.listenerCount('SIGTERM') < EventEmitter.defaultMaxListeners) process.on('SIGTERM', () => {})
while (server.listenerCount('close') < EventEmitter.defaultMaxListeners) server.on('close', () => {})
await pause(10)
say('warned', warned)
process.once('beforeExit', code => {
  say('beforeExit', code)
  process.exitCode = 3
})
if (process.env.HOLD) await new Promise(() => setInterval(() => {}, 1_000))
process.removeAllListeners('SIGTERM')
server.close()
`

describe('a program under fd-broker/auto sees of its servers what it sees without it:', () => {
  it.each(perLane(['require'] as const, ['import', 'options', 'require'] as const))(
    'as the first version, by %s',
    async by => {
      const program = await AutoProgram.of(RECORD)
      const wanted = await linesOf(program, 'nothing')
      expect(wanted.length).toBeGreaterThan(20)
      expect(await linesOf(program, by)).toEqual(wanted)
    },
  )

  it('as a version that is replaced, which still answers its last request', async () => {
    const program = await AutoProgram.of(`import http from 'node:http'
const server = http.createServer((request, response) => setTimeout(() => response.end(JSON.stringify([process.pid, server.address()])), Number(request.url.slice(1))))
server.listen(8080, '127.0.0.1')
`)
    const first = await program.serve('import', 1)
    const address = { address: '127.0.0.1', family: 'IPv4', port: program.port }
    const answer = fetch(`${program.url}/3000`).then(response => response.json())
    await program.command('upgrade')
    await program.statusWhere('the next version serves', ({ pid }) => pid !== first)
    expect(await answer).toEqual([first, address])
  })

  it('as the next version, whose listeners are those of the version before', async () => {
    const program = await AutoProgram.of(RECORD)
    const wanted = await linesOf(program, 'nothing')
    const first = await program.launch('import', { HOLD: '1' })
    await program.serves(1)
    await program.statusWhere('all of it listens', ({ listeners }) => listeners.length >= 4)
    expect(await linesOf(program, 'import')).toEqual(wanted)
    expect(first).toBeGreaterThan(0)
  })

  it('no listener, property or warning but its own, as the first version and as the next one', async () => {
    const program = await AutoProgram.of(TRACES)
    const said = async (by: 'nothing' | 'import', env = {}) => {
      const { code, stdout, stderr } = await program.run(by, env)
      expect({ code, stderr }).toEqual({ code: 3, stderr: '' })
      return stdout.trim().split('\n')
    }
    const wanted = await said('nothing')
    expect(wanted).toContain('["warned",[]]')
    expect(await said('import', { SERVED: '1' })).toEqual(wanted)
    await program.launch('import', { HOLD: '1' })
    await program.serves(1)
    // Otherwise the next version could get the request that the first one makes to itself.
    await until('the first version has asked', () => program.sandbox.output.includes('["asked"'))
    expect(await said('import', { SERVED: '1' })).toEqual(wanted)
  })

  it('the path of a server that it closes and opens again, however soon', async () => {
    const program = await AutoProgram.of(PATHS)
    expect(await linesOf(program, 'import')).toEqual(await linesOf(program, 'nothing'))
  })

  it('the path of a server that it closes when it runs without upgrades', async () => {
    const program = await AutoProgram.of(PATHS)
    const wanted = await linesOf(program, 'nothing')
    const { code, stdout, stderr } = await program.run('import', {
      FD_BROKER_CONTROL: '/proc/nowhere/shop.sock',
    })
    expect(stderr).toContain('runs without upgrades')
    expect([code, stdout.trim().split('\n')]).toEqual([0, wanted])
  })

  it('the end of a server whose path cannot be looked up any more', async () => {
    const program = await AutoProgram.of(`import { mkdirSync, renameSync, symlinkSync } from 'node:fs'
import net from 'node:net'
mkdirSync('./a')
const server = net.createServer()
await new Promise(resolve => server.listen('./a/own.sock', resolve))
renameSync('./a', './b')
symlinkSync('./a', './a')
server.close(() => console.log('closed'))
`)
    const { code, stdout } = await program.run('import', { FD_BROKER_CONTROL: '/proc/nowhere/shop.sock' })
    expect([code, stdout]).toEqual([0, 'closed\n'])
  })

  it.each([
    ['its port is in use', '8080, () => net.createServer().listen(8080)', /EADDRINUSE/],
    [
      'the folder of its path does not exist',
      "'./no-folder/shop.sock'",
      /E(?:ACCES|NOENT).* \.\/no-folder\/shop\.sock$/,
    ],
  ])('an error that it does not handle ends it: %s', async (_, where, error) => {
    const program = await AutoProgram.of(`import net from 'node:net'
net.createServer().listen(${where})
`)
    const [without, under] = [await program.run('nothing'), await program.run('import')]
    const told = (stderr: string) => /Error: listen E.*/.exec(stderr)?.[0]
    expect(told(without.stderr)).toMatch(error)
    expect([under.code, told(under.stderr)]).toEqual([without.code, told(without.stderr)])
  })
})

/** Responds with the number of files that Node's loader for `import` has opened, and whether the program's own import succeeded. */
const LOADING = `import { EventEmitter } from 'node:events'
import http from 'node:http'
const { init } = EventEmitter
let files = 0
EventEmitter.init = function (options) {
  if (this.constructor?.name === 'FileHandle') files++
  return init.call(this, options)
}
let imported = null
const server = http.createServer((request, response) => response.end(JSON.stringify({ files, imported })))
server.listen(8080)
if (process.env.OWN_IMPORT) import('fd-broker').then(
  library => { imported = typeof library.join },
  error => { imported = String(error) },
)
`

describe('the library under fd-broker/auto', () => {
  it('makes no EventEmitter for each of its files, which would slow down the requests of a small server', async () => {
    const program = await AutoProgram.of(LOADING)
    await program.serve()
    expect(await (await fetch(program.url)).json()).toEqual({ files: 0, imported: null })
  })

  it('loads while the program imports it too', async () => {
    const program = await AutoProgram.of(LOADING)
    await program.serve('import', 1, { OWN_IMPORT: '1' })
    const imported = await until('the program has imported it', async () => {
      const answer = (await (await fetch(program.url)).json()) as { readonly imported: string | null }
      return answer.imported
    })
    expect(imported).toBe('function')
  })
})
