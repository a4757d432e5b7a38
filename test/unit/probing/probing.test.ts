import { getEventListeners } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { connectionTo } from '../../../src/probing/connection-to.js'
import { type HealthCheck, repeatCheck, runCheck, tcpCheck } from '../../../src/probing/health-check.js'
import { httpCheck, privateHttpCheck } from '../../../src/probing/http-check.js'
import { childShell, commandCheck, nodeShell } from '../../../src/probing/shell.js'

import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { hasEnded, signalPid } from '../../processes/launch.js'
import { until } from '../../processes/until.js'

const NEVER = new AbortController().signal
/** Where an answer is expected: longer than any machine takes. */
const LONG_MS = 20_000

const ask = (question: HealthCheck, timeout = LONG_MS) => runCheck(question, timeout, NEVER)

const answer: RequestListener = ({ url, headers, socket }, response) => {
  switch (url) {
    case '/moved':
      response.writeHead(302, { location: '/' }).end()
      return
    case '/sick':
      response.writeHead(503).end('no database\nsecond line\n')
      return
    case '/silent':
      response.writeHead(500, '').end()
      return
    case '/hangs':
      return
    case '/cut':
      socket.destroy()
      return
    default:
      response.end(headers.host)
  }
}

async function listening(server: Server): Promise<number> {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    if ('closeAllConnections' in server) (server as ReturnType<typeof createServer>).closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

describe('a question by http', () => {
  it('succeeds with 2xx and 3xx, and else gives the status and the first line of the body', async () => {
    const at = `http://127.0.0.1:${await listening(createServer(answer))}`
    expect(await ask(httpCheck(`${at}/`))).toBeNull()
    expect(await ask(httpCheck(`${at}/moved`))).toBeNull()
    expect(await ask(httpCheck(`${at}/sick`))).toBe(`GET ${at}/sick: 503 Service Unavailable (no database)`)
    expect(await ask(httpCheck(`${at}/silent`))).toMatch(/\/silent: 500/)
    expect(await ask(httpCheck(`${at}/cut`))).toMatch(/\/cut: socket hang up$/)
    expect(await ask(httpCheck(`${at}/hangs`), 50)).toBe(`GET ${at}/hangs: no answer within 50 ms`)
  })

  it('has an answer in time if this process, which was stopped, reads it later', async () => {
    const server = createServer((_request, response) => response.end())
    const port = await listening(server)
    let arrived = () => {}
    const hasArrived = new Promise<void>(resolve => {
      arrived = resolve
    })
    server.on('request', (_request, response) => response.on('finish', arrived))
    const asked = runCheck(httpCheck(`http://127.0.0.1:${port}/`), 200, NEVER)
    await hasArrived
    // Holds the event loop, as a SIGSTOP does, before the answer is read.
    const end = performance.now() + 300
    while (performance.now() < end);
    expect(await asked).toBeNull()
  })

  it('leaves nothing at the signal under which it is asked again and again', async () => {
    const any = vi.spyOn(AbortSignal, 'any')
    const { signal } = new AbortController()
    const at = `http://127.0.0.1:${await listening(createServer(answer))}/`
    expect(await runCheck(httpCheck(at), LONG_MS, signal)).toBeNull()
    expect([any.mock.calls, getEventListeners(signal, 'abort')]).toEqual([[], []])
    any.mockRestore()
  })

  it('to nobody is refused', async () => {
    const server = createTcpServer()
    const port = await listening(server)
    await new Promise(resolve => server.close(resolve))
    expect(await ask(httpCheck(`http://127.0.0.1:${port}/`))).toMatch(/: connect ECONNREFUSED/)
    expect(await ask(tcpCheck('127.0.0.1', port))).toMatch(
      new RegExp(`^connect to 127\\.0\\.0\\.1:${port}: connect ECONNREFUSED`),
    )
  })

  it('reaches a server of this process that listens nowhere, with its Host', async () => {
    const hosts: (string | undefined)[] = []
    const server = createServer((request, response) => {
      hosts.push(request.headers.host)
      answer(request, response)
    })
    const question = (path: string, status?: number) =>
      privateHttpCheck({
        path,
        host: 'app.example.com',
        tls: false,
        status,
        connect: () => connectionTo(server),
      })
    expect(await ask(question('/'))).toBeNull()
    expect(await ask(question('/', 204))).toBe('GET / of app.example.com: 200 OK (app.example.com)')
    expect(await ask(question('/sick', 503))).toBeNull()
    expect(await ask(question('/hangs'), 50)).toMatch(/no answer within 50 ms$/)
    // The last one may have been given up before it was sent.
    expect(hosts.slice(0, 3)).toEqual(Array(3).fill('app.example.com'))
    expect(server.listening).toBe(false)
  })

  it('ends the connection although the answer goes on', async () => {
    const server = createServer((_, response) => {
      response.write('and so on')
    })
    const sockets: Socket[] = []
    const question = (status: number) =>
      privateHttpCheck({
        path: '/',
        host: 'a',
        tls: false,
        status,
        connect: () => {
          sockets.push(connectionTo(server))
          return sockets.at(-1)!
        },
      })
    expect(await ask(question(200))).toBeNull()
    expect(await ask(question(204))).toBe('GET / of a: 200 OK (and so on)')
    expect(sockets.map(({ destroyed }) => destroyed)).toEqual([true, true])
  })

  it('reaches one that speaks TLS, whose certificate is not looked at', async () => {
    const names: unknown[] = []
    const server = createSecureServer({ cert: CERTIFICATE, key: KEY }, answer)
    server.on('secureConnection', socket => names.push(socket.servername))
    const question = (host: string) =>
      privateHttpCheck({ path: '/', host, tls: true, connect: () => connectionTo(server) })
    expect(await ask(question('app.example.com:8443'))).toBeNull()
    expect(await ask(question('127.0.0.1'))).toBeNull()
    expect(names).toEqual(['app.example.com', false])
  })

  it('ends with its signal', async () => {
    const server = createServer(answer)
    const over = new AbortController()
    const socket = connectionTo(server)
    const question = privateHttpCheck({ path: '/hangs', host: 'a', tls: false, connect: () => socket })
    const asked = runCheck(question, LONG_MS, over.signal)
    over.abort()
    await asked
    await until('the connection has ended', () => socket.destroyed)
  })
})

describe('a question by tcp', () => {
  it('succeeds when a process takes the connection', async () => {
    expect(await ask(tcpCheck('127.0.0.1', await listening(createTcpServer())))).toBeNull()
  })
})

describe('a question by a command', () => {
  const question = (text: string, env: NodeJS.ProcessEnv) => commandCheck(text, nodeShell(env))

  it('takes the exit code, with the last line that it wrote', async () => {
    expect(await ask(question('test "$A" = b', { A: 'b' }))).toBeNull()
    expect(await ask(question('echo one; echo no such luck >&2; exit 3', {}))).toBe(
      'command "echo one; echo no such luck >&2; exit 3": ended with 3 (no such luck)',
    )
    expect(await ask(question('kill -TERM $$', {}))).toMatch(/ended with 143$/)
    expect(await ask(question('exit 4', {}))).toMatch(/ended with 4$/)
  })

  it('delays nothing once it is over, and processes that the command has left behind do not either', async () => {
    const why = await ask(question('sleep 600 & echo left $!; exit 5', {}))
    expect(why).toMatch(/ended with 5 \(left \d+\)$/)
    signalPid(Number(/left (\d+)/.exec(why!)![1]), 'SIGKILL')
  })
})

describe('a command that takes too long', () => {
  it('ends by a kill, with all its processes', async () => {
    const pids: number[] = []
    const start = nodeShell({})
    const question = commandCheck('sleep 600 & echo $!; echo $$; wait', (text, { output, ended }) =>
      start(text, {
        ended,
        output: bytes => {
          pids.push(...`${bytes}`.trim().split('\n').map(Number))
          output(bytes)
        },
      }),
    )
    const over = new AbortController()
    const asked = runCheck(question, LONG_MS, over.signal)
    await until('both run', () => pids.length === 2)
    over.abort()
    await asked
    await until('both have ended', () => pids.every(hasEnded))
  })
})

describe('asking again', () => {
  it('leaves nothing behind of one question when it asks the next', async () => {
    const over = new AbortController()
    const listening: number[] = []
    await repeatCheck(
      { name: 'it', run: async () => null },
      () => ({ interval: 1, timeout: LONG_MS }),
      over.signal,
      () => {
        listening.push(getEventListeners(over.signal, 'abort').length)
        if (listening.length === 10) over.abort()
      },
    )
    expect(new Set(listening).size).toBe(1)
  })

  it('asks one at a time, until it is told to stop', async () => {
    const over = new AbortController()
    let open = 0
    let most = 0
    const told: (string | null)[] = []
    const answers = [null, 'no', null]
    const question: HealthCheck = {
      name: 'it',
      async run() {
        most = Math.max(most, ++open)
        await new Promise(resolve => setImmediate(resolve))
        open--
        if (told.length === 1) throw new Error('is gone')
        return answers[told.length] ?? null
      },
    }
    await repeatCheck(
      question,
      () => ({ interval: 1, timeout: LONG_MS }),
      over.signal,
      why => {
        told.push(why)
        if (told.length === 4) over.abort()
      },
    )
    expect(told).toEqual([null, 'it: is gone', null, null])
    expect(most).toBe(1)
  })

  it('tells failures in one line of bounded length', async () => {
    const question: HealthCheck = { name: 'it', run: async () => `a\r\nb\x1b[31m${'c'.repeat(1000)}` }
    const why = await ask(question)
    expect(why).toMatch(/^it: a b \[31mc+…$/)
    expect(why).toHaveLength(300)
  })
})

it('hears of the end of a shell that was started, and of which nothing more could be had', async () => {
  let ended: (code: number) => void = () => {}
  const question = commandCheck('true', (_text, events) => {
    ended = events.ended
    throw new Error('no descriptor left')
  })
  expect(await ask(question)).toBe('command "true": no descriptor left')
  expect(() => ended(0)).not.toThrow()
})

it('kills no other child that has got the pid of a shell that has ended', async () => {
  const killed: number[] = []
  let reaped = (_code: number) => {}
  const children = {
    start: (_start: unknown, ended: (code: number) => void) => {
      reaped = ended
      return 7
    },
    kill: (pid: number) => void killed.push(pid),
  }
  const code = await new Promise<number>(ended => {
    const shell = childShell(children, '/', {})('true', { output() {}, ended })
    shell.kill()
    reaped(3)
    shell.kill()
  })
  expect([code, killed]).toEqual([3, [7]])
})
