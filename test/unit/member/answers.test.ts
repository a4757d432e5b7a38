import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { createServer as createSecureServer } from 'node:https'
import { createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { answers, join, type Member } from '../../../src/index.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

const context = { signal: new AbortController().signal }

async function member(control: string): Promise<Member> {
  const joined = await join({ service: 'shop', control, upgrade: { probation: 60_000 } })
  onTestFinished(() => joined.close({ timeout: 0 }))
  return joined
}

describe('answers()', () => {
  it('asks this process’s own server, not the one that serves behind the shared listener', async () => {
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-answers-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const control = joinPath(folder, 'control.sock')
    const asked: string[] = []
    const serve = async (joined: Member, name: string, listener: RequestListener) => {
      const server = createServer((request, response) => {
        asked.push(`${name} ${request.headers.host}${request.url}`)
        listener(request, response)
      })
      const web = await joined.listen('web', 'tcp://127.0.0.1:0')
      web.serve(server)
      return server
    }
    const old = await member(control)
    const first = await serve(old, 'old', (_request, response) => response.end('well'))
    await old.ready({ checks: [answers(first, { path: '/health' })] })
    const sick = await member(control)
    const second = await serve(sick, 'sick', (_request, response) =>
      response.writeHead(502).end('no upstream'),
    )
    await expect(
      sick.ready({ checks: [answers(second, { path: '/health', host: 'shop.test' })] }),
    ).rejects.toMatchObject({
      code: 'ERR_FDB_CHECK',
      message: expect.stringContaining('GET /health of shop.test: 502 Bad Gateway (no upstream)'),
      details: { reason: 'GET /health of shop.test: 502 Bad Gateway (no upstream)' },
    })
    await sick.close()
    const { lastFailure } = await until('the handoff is over', () => {
      const status = old.status()
      return status.phase === 'idle' && status.lastFailure !== null ? status : null
    })
    expect(lastFailure).toMatchObject({
      code: 'ERR_FDB_CHECK',
      phase: 'offering',
      message: expect.stringContaining('502'),
    })
    expect(old.phase).toBe('serving')
    const well = await member(control)
    const third = await serve(well, 'well', (_request, response) => response.writeHead(204).end())
    await well.ready({ checks: [answers(third, { path: '/health', status: 204 })] })
    expect(asked).toEqual(['old localhost/health', 'sick shop.test/health', 'well localhost/health'])
  })

  it('asks over TLS where its server speaks that', async () => {
    const server = createSecureServer({ cert: CERTIFICATE, key: KEY }, (_request, response) => response.end())
    await answers(server)(context)
  })

  it('fails at its timeout, with the name of its question', async () => {
    const server = createServer(() => {})
    const check = answers(server, { path: '/deep', timeout: 30 })
    expect(check.name).toBe('answers /deep')
    await expect(check(context)).rejects.toMatchObject({
      code: 'ERR_FDB_CHECK',
      message: expect.stringContaining('GET /deep: no answer within 30 ms'),
    })
  })

  it.each<[what: string, make: () => unknown, message: RegExp]>([
    ['a server that is not one of http', () => answers(createTcpServer()), /option "server"/],
    ['one of http2', () => answers(untyped(createHttp2Server())), /option "server"/],
    ['no server', () => answers(untyped(null)), /option "server" is null/],
    ['a path that is none', () => answers(createServer(), { path: 'health' }), /option "path"/],
    ['a path that ends the line', () => answers(createServer(), { path: '/ a' }), /option "path"/],
    ['a host that is none', () => answers(createServer(), { host: 'a\r\nb' }), /option "host"/],
    ['a status that no answer has', () => answers(createServer(), { status: 100 }), /option "status"/],
    ['a time that is none', () => answers(createServer(), { timeout: 0 }), /option "timeout"/],
    ['a misspelt option', () => answers(createServer(), untyped({ url: '/' })), /no option "url"/],
  ])('refuses %s', (_what, make, message) => {
    expect(make).toThrow(message)
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_FDB_OPTION' }))
  })
})
