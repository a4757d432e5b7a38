import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { acquireControl, closeControl, type FirstControl } from '../../src/os/control-path.js'
import { Channel } from '../../src/wire/channel.js'
import { ControlListener } from '../../src/wire/control-listener.js'
import { RawClient } from '../connections-support/http-client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import * as operator from '../processes/operator.js'
import { packed } from '../processes/raw-peer.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
const HANDLED = `import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
const timer = setInterval(() => {}, 1_000)
process.on('SIGTERM', () => {
  console.log(process.pid + ' is told to stop')
  server.close(error => {
    console.log(process.pid + ' has closed ' + error)
    clearInterval(timer)
  })
})
`
/** A server that keeps upgraded connections, and says goodbye on them when it is told to end. */
const SAYS_GOODBYE = `import http from 'node:http'
const sockets = []
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: chat\\r\\n\\r\\nwelcome')
  sockets.push(socket)
})
process.on('SIGTERM', () => {
  console.log(process.pid + ' is told to stop')
  for (const socket of sockets) socket.end('goodbye')
  server.close()
})
`
/** A server that listens when a file is there. */
const STARTS_AT_A_FILE = `import { existsSync } from 'node:fs'
import http from 'node:http'
if (!existsSync('ready')) console.log('the next one waits')
const server = http.createServer((request, response) => response.end('pid ' + process.pid))
server.keepAliveTimeout = 60_000
const timer = setInterval(() => {
  if (!existsSync('ready')) return
  clearInterval(timer)
  server.listen(8080)
}, 10)
`
/** A server that ends at once when it is told to. */
const ENDS_ITSELF = `process.on('SIGTERM', () => {
  console.log(process.pid + ' is told to stop')
  process.exit()
})
`
/** The standby stays only until the next one is known to be well. */
const SOON = { FD_BROKER_PROBATION: '0' }

async function refuses(url: string): Promise<void> {
  await until(`${url} refuses`, () =>
    fetch(url).then(
      () => null,
      () => true,
    ),
  )
}

describe('under fd-broker/auto a signal to the process that serves ends the service:', () => {
  it.each(perLane(['SIGTERM'] as const, ['SIGTERM', 'SIGINT'] as const))(
    '%s, by its default action',
    async signal => {
      const program = await AutoProgram.of(SERVER)
      const pid = await program.serve()
      signalPid(pid, signal)
      await program.ends(pid)
      await refuses(program.url)
    },
  )

  it.runIf(NIGHTLY)('also the version that stands by', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve()
    const second = await program.serve('import', 2)
    expect(hasEnded(first)).toBe(false)
    signalPid(second, 'SIGTERM')
    await program.ends(second)
    await program.ends(first)
    await refuses(program.url)
  })

  it.each([
    ['without a handler', ''],
    ['with a handler that ends its process', ENDS_ITSELF],
  ])(
    'but not while the next version starts, %s: that one serves first, and gets the connections',
    async (_, handler) => {
      const program = await AutoProgram.of(STARTS_AT_A_FILE + handler)
      program.write('ready', '')
      const first = await program.serve()
      rmSync(program.path('ready'))
      const client = await RawClient.to(program.port)
      expect(await client.ask('/')).toBe(`pid ${first}`)
      const second = await program.launch()
      await program.says('the next one waits')
      signalPid(first, 'SIGTERM')
      expect(await client.ask('/')).toBe(`pid ${first}`)
      program.write('ready', '')
      await program.ends(first)
      expect(await client.ask('/')).toBe(`pid ${second}`)
      expect(client.end).toBeNull()
      expect(program.output.includes(`${first} is told to stop`)).toBe(handler !== '')
    },
  )

  it('by its own handler, if the next version that starts does not serve', async () => {
    const program = await AutoProgram.of(STARTS_AT_A_FILE + ENDS_ITSELF)
    program.write('ready', '')
    const first = await program.serve()
    rmSync(program.path('ready'))
    const second = await program.launch()
    await program.says('the next one waits')
    signalPid(first, 'SIGTERM')
    expect(await (await fetch(program.url)).text()).toBe(`pid ${first}`)
    expect(program.output).not.toContain('is told to stop')
    signalPid(second, 'SIGKILL')
    await program.ends(first)
    expect(program.output).toContain(`${first} is told to stop`)
  })

  it('by its own handler at the second signal, although the next version starts', async () => {
    const program = await AutoProgram.of(STARTS_AT_A_FILE + ENDS_ITSELF)
    program.write('ready', '')
    const first = await program.serve()
    rmSync(program.path('ready'))
    await program.launch()
    await program.says('the next one waits')
    signalPid(first, 'SIGTERM')
    expect(await (await fetch(program.url)).text()).toBe(`pid ${first}`)
    signalPid(first, 'SIGTERM')
    await program.ends(first)
  })

  it.each([
    ['without a handler', ''],
    ['with a handler that ends its process', ENDS_ITSELF],
  ])(
    'but not while the next version of an upgrade is still being loaded, %s: that one serves first',
    async (_, handler) => {
      const program = await AutoProgram.of(SERVER + handler)
      const first = await program.serve()
      const client = await RawClient.to(program.port)
      expect(await client.ask('/')).toBe(`pid ${first}`)
      const loads = 'while [ ! -e go ]; do sleep 0.01; done; exec "$@"'
      const next = ['sh', '-c', loads, 'sh', 'node', '--import', 'fd-broker/auto', program.file]
      const upgrade = program.sandbox.run('upgrade', '--control', program.control, '--', ...next)
      await program.statusWhere('the next version starts', ({ upgrade }) => upgrade !== null)
      signalPid(first, 'SIGTERM')
      expect(await client.ask('/')).toBe(`pid ${first}`)
      program.write('go', '')
      expect(await upgrade).toMatchObject({ code: 0 })
      await program.ends(first)
      const second = await program.serves(2)
      expect(await client.ask('/')).toBe(`pid ${second}`)
      expect(client.end).toBeNull()
    },
  )

  it('by its own handler, and the version that stands by', async () => {
    const program = await AutoProgram.of(HANDLED)
    const first = await program.serve()
    const second = await program.serve('import', 2)
    signalPid(second, 'SIGTERM')
    await program.ends(second)
    await program.ends(first)
    await refuses(program.url)
    expect(program.output).toContain(`${second} has closed undefined`)
  })
})

it.each(perLane(['process.exit()'], ['server.close(() => process.exit())', 'process.exit()']))(
  'under fd-broker/auto a program whose handler of SIGTERM calls %s leaves no control socket, unless a successor has it',
  async end => {
    const program = await AutoProgram.of(
      `${SERVER.replace('http.create', 'const server = http.create')}process.on('SIGTERM', () => ${end})\n`,
    )
    const first = await program.serve('import', 1, SOON)
    const second = await program.serve('import', 2, SOON)
    await program.ends(first)
    expect((await operator.status(program.control)).pid).toBe(second)
    signalPid(second, 'SIGTERM')
    await program.ends(second)
    expect(existsSync(program.control)).toBe(false)
  },
)

it('under fd-broker/auto a program that exits while its predecessor stands by leaves it the control socket', async () => {
  const program = await AutoProgram.of(`${SERVER}process.on('SIGUSR2', () => process.exit())\n`)
  const first = await program.serve()
  const second = await program.serve('import', 2)
  signalPid(second, 'SIGUSR2')
  await program.ends(second)
  await program.answeredBy(first)
  expect((await operator.status(program.control)).pid).toBe(first)
  signalPid(first, 'SIGUSR2')
  await program.ends(first)
  expect(existsSync(program.control)).toBe(false)
})

it('under fd-broker/auto a program that closes its server and listens again is served, and upgraded, again', async () => {
  const program =
    await AutoProgram.of(`${SERVER.replace('http.create', 'const server = http.create').replace('response.end', "request.url === '/waits' ? console.log('waits') : response.end")}process.on('SIGUSR2', () => {
  if (server.listening) server.close(() => console.log('closed'))
  else server.listen(8080)
})
process.on('SIGWINCH', () => {
  server.close(() => console.log('has ended'))
  setImmediate(() => console.log('is closed'))
})
setInterval(() => {}, 1_000)
`)
  const first = await program.serve()
  for (const round of [1, 2]) {
    signalPid(first, 'SIGUSR2')
    await until('it is closed', () => program.output.split('closed').length > round || null)
    await refuses(program.url)
    await until('no process serves', () =>
      operator.status(program.control, 1).then(
        () => null,
        () => true,
      ),
    )
    signalPid(first, 'SIGUSR2')
    expect(await program.serves(1)).toBe(first)
  }
  const client = await RawClient.to(program.port)
  client.send('GET /waits HTTP/1.1\r\nHost: x\r\n\r\n')
  await program.says('waits')
  const second = await program.serve('import', 2)
  await program.answeredBy(second)
  // The server of the standby ends with the last connection, as if it listened.
  signalPid(first, 'SIGWINCH')
  await program.says('is closed')
  expect(program.output).not.toContain('has ended')
  client.socket.destroy()
  await program.says('has ended')
})

it.runIf(NIGHTLY)(
  'under fd-broker/auto a program that listens again as soon as its server is closed is served, and upgraded',
  async () => {
    const program =
      await AutoProgram.of(`${SERVER.replace('http.create', 'const server = http.create')}process.on('SIGUSR2', () => {
  server.close(() => server.listen(8080, () => console.log('listens again')))
})
`)
    const first = await program.serve()
    signalPid(first, 'SIGUSR2')
    await until('it listens again', () => program.output.includes('listens again') || null)
    expect(await program.serves(1)).toBe(first)
    const second = await program.serve('import', 2, SOON)
    await program.answeredBy(second)
  },
)

it.each([
  ['that a user has started', (program: AutoProgram) => program.launch()],
  ['that fd-broker upgrade has started', (program: AutoProgram) => program.command('upgrade')],
])(
  'under fd-broker/auto a program %s, which closes its server in its probation and listens again, is the next version',
  async (_, next) => {
    const program =
      await AutoProgram.of(`${SERVER.replace('http.create', 'const server = http.create')}process.on('SIGUSR2', () => {
  server.close(() => server.listen(8080, () => console.log('listens again')))
})
`)
    const first = await program.serve()
    await next(program)
    const second = await program.serves(2)
    signalPid(second, 'SIGUSR2')
    await program.says('listens again')
    await program.answeredBy(second)
    expect(hasEnded(first)).toBe(false)
    expect((await operator.status(program.control)).pid).toBe(second)
    expect(program.output).not.toContain('EADDRINUSE')
  },
)

describe('under fd-broker/auto a replaced version', () => {
  it.runIf(NIGHTLY)('ends by its own handler of SIGTERM, whose close of the server succeeds', async () => {
    const program = await AutoProgram.of(HANDLED)
    const first = await program.serve('import', 1, SOON)
    await program.serve('import', 2, SOON)
    await program.ends(first)
    expect(program.output).toBe(`${first} is told to stop\n${first} has closed undefined\n`)
  })

  it('ends without a word if nothing keeps it', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve('import', 1, SOON)
    await program.serve('import', 2, SOON)
    await program.ends(first)
    expect(program.output).toBe('')
  })

  it('ends without a handler, and says what kept it', async () => {
    const program = await AutoProgram.of(`${SERVER}setInterval(() => {}, 1_000)\n`)
    const env = { ...SOON, FD_BROKER_EXIT: '100ms' }
    const first = await program.serve('import', 1, env)
    await program.serve('import', 2, env)
    await program.ends(first)
    expect(program.output).toMatch(/^fd-broker: process \d+ no longer serves.*1 Timeout keeps it.*\n$/)
  })

  it('serves on if the next one fails at its start, or before it listens to all', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.serve()
    program.write('server.mjs', `${SERVER}throw new Error('a mistake')\n`)
    const { code, stderr } = await program.sandbox.run('upgrade', '--control', program.control)
    expect(code).toBe(1)
    expect(stderr).toContain('a mistake')
    expect(await (await fetch(program.url)).text()).toBe(`pid ${first}`)
  })

  it('serves again if the next one dies while it stands by, and does not hear again that it listens', async () => {
    const program = await AutoProgram.of(
      `${SERVER.replace('listen(8080)', "listen(8080).on('listening', () => console.log(process.pid + ' listens'))")}`,
    )
    const first = await program.serve()
    const second = await program.serve('import', 2)
    signalPid(second, 'SIGKILL')
    await until('the first one answers', async () => {
      const text = await fetch(program.url).then(
        answer => answer.text(),
        () => '',
      )
      return text === `pid ${first}` || null
    })
    const said = program.output.split('\n').filter(line => line.endsWith(' listens'))
    expect(said).toEqual([`${first} listens`, `${second} listens`])
    signalPid(first, 'SIGTERM')
    await program.ends(first)
  })

  it('serves with a server that it has opened again while it stood by, each time that it serves again', async () => {
    const program =
      await AutoProgram.of(`${SERVER.replace('http.create', 'const server = http.create')}http.createServer().listen('./other.sock')
process.on('SIGUSR2', () => server.close(() => server.listen(8080)))
`)
    const first = await program.serve()
    let next = await program.serve('import', 2)
    signalPid(first, 'SIGUSR2')
    await program.says('another process has started to serve')
    for (let time = 0; time < 3; time++) {
      signalPid(next, 'SIGKILL')
      await program.answeredBy(first)
      next = await program.launch()
      await program.statusWhere('the next one serves', ({ pid }) => pid === next)
      await program.answeredBy(next)
    }
    expect(program.output.match(/will not be handed over/g)).toHaveLength(1)
    expect((await operator.status(program.control)).listeners).toHaveLength(2)
  })

  it('lets go of what the next one gives up', async () => {
    const program = await AutoProgram.of(`${SERVER}http.createServer().listen('./other.sock')\n`)
    const first = await program.serve('import', 1, SOON)
    const without = { ...SOON, FD_BROKER_WITHOUT: program.path('other.sock') }
    await program.statusWhere('both listen', ({ listeners }) => listeners.length === 2)
    program.write('server.mjs', SERVER)
    const second = await program.serve('import', 2, without)
    await program.ends(first)
    await program.answeredBy(second)
    expect(existsSync(program.path('other.sock'))).toBe(false)
  })

  it('ends its own connections, by its SIGTERM handler, before the end of the drain closes them', async () => {
    const env = { FD_BROKER_PROBATION: '0', FD_BROKER_DRAIN: '1s' }
    const program = await AutoProgram.of(SAYS_GOODBYE, 'server.mjs', { env })
    const first = await program.serve()
    const client = await RawClient.to(program.port)
    let text = ''
    client.socket.on('data', part => (text += part))
    client.send('GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n')
    await until('it is upgraded', () => text.endsWith('welcome') || null)
    await program.command('upgrade')
    const second = await program.serves(2)
    await program.ends(first)
    expect(text.endsWith('welcomegoodbye'), text).toBe(true)
    expect(client.end).toBe('fin')
    await program.answeredBy(second)
  })

  it('has its first connections, of before the library was there, answered after an upgrade', async () => {
    const program = await AutoProgram.of(SERVER)
    const first = await program.launch()
    const socket = await until('it accepts', async () => {
      const client = connect(program.port, '127.0.0.1')
      return await once(client, 'connect').then(
        () => client,
        () => null,
      )
    })
    let answers = ''
    socket.setEncoding('utf8').on('data', text => (answers += text))
    const ask = async (pid: number) => {
      socket.write('GET / HTTP/1.1\r\nHost: shop\r\n\r\n')
      await until(
        `${pid} answers`,
        () => answers.endsWith(`pid ${pid}`) || null,
        10_000,
        () => answers,
      )
    }
    await ask(first)
    await program.serves(1)
    await program.command('upgrade')
    const second = await program.serves(2)
    await program.statusWhere('it has come over', ({ listeners }) => listeners[0]?.connections === 1)
    await ask(second)
    socket.destroy()
  })
})

describe('a next version whose service is stopped before it has the listeners', () => {
  it('ends, and does not serve alone at the address that has become free', async () => {
    const program = await AutoProgram.of(SERVER)
    // As the process that serves answers when `fd-broker stop` has come first.
    const stopped = packed({
      reject: { code: 'ERR_FDB_ABORTED', message: 'an operator has stopped the service' },
    })
    const place = (await acquireControl(program.control)) as FirstControl
    const listener = new ControlListener(place.listener)
    onTestFinished(() => {
      listener.stop()
      closeControl(place)
    })
    listener.start(fd => {
      const channel = new Channel(fd)
      channel.start({ message: () => void channel.send(stopped).catch(() => {}), end: () => {} })
    })
    const next = await program.launch()
    await program.says(`this version does not serve: ERR_FDB_ABORTED: an operator has stopped the service`)
    await program.ends(next)
    await expect(fetch(program.url)).rejects.toThrow()
  })
})
