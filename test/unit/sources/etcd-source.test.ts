import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { EtcdSource } from 'fd-broker/sources'
import { expect, it, onTestFinished, vi } from 'vitest'
import { until } from '../../processes/until.js'

const base64 = (text: string) => Buffer.from(text).toString('base64')

it('after a compaction all pages are of one revision, although the store goes on meanwhile', async () => {
  let revision = 10
  const asked: unknown[] = []
  const server = createServer(async (request, response) => {
    const body = (await json(request)) as Record<string, unknown>
    const header = { revision: `${revision++}`, cluster_id: 'c' }
    if (request.url === '/v3/watch') {
      response.end(JSON.stringify({ result: { header, compact_revision: '9' } }))
      return
    }
    asked.push(body.revision)
    const kvs = body.keys_only ? [{ key: base64(asked.length === 2 ? 'p/a' : 'p/b') }] : []
    response.end(JSON.stringify({ header, count: '2', kvs, more: body.keys_only && asked.length === 2 }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const hosts = [`http://127.0.0.1:${(server.address() as AddressInfo).port}`]
  const source = new EtcdSource({ hosts, prefix: 'p/' })
  const known = new Set(['a', 'b', 'gone'])
  for await (const batch of source.read('5@c', new AbortController().signal, known)) {
    expect(batch).toEqual({ changes: [{ key: 'gone', value: null }], revision: '11@c' })
    break
  }
  expect(asked).toEqual([undefined, '11', '11'])
})

it('after a watch that the store cancels, for example because its tokens ended with its restart, authenticates again', async () => {
  let tokens = 0
  const server = createServer((request, response) => {
    const header = { revision: '6', cluster_id: 'c' }
    if (request.url === '/v3/auth/authenticate') {
      response.end(JSON.stringify({ header, token: `token ${++tokens}` }))
      return
    }
    const isValid = request.headers.authorization === 'token 2'
    const refusal = { canceled: true, cancel_reason: 'etcdserver: invalid auth token' }
    const line = (result: object) => response.write(`${JSON.stringify({ result: { header, ...result } })}\n`)
    line({ created: true, ...(!isValid && refusal) })
    if (isValid) line({ events: [{ kv: { key: base64('p/a'), value: base64('1'), mod_revision: '6' } }] })
    else response.end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const hosts = [`http://127.0.0.1:${(server.address() as AddressInfo).port}`]
  const source = new EtcdSource({ hosts, prefix: 'p/', user: { name: 'root', password: 'secret' } })
  const next = async () => {
    for await (const batch of source.read('5@c', new AbortController().signal)) return batch
    return null
  }
  await expect(next()).rejects.toThrow('invalid auth token')
  expect(await next()).toEqual({ changes: [{ key: 'a', value: Buffer.from('1') }], revision: '6@c' })
})

it('goes to the other of two hosts if one has lost its cluster, whose watch stays silent', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  onTestFinished(() => void vi.useRealTimers())
  vi.spyOn(Math, 'random').mockReturnValue(0)
  onTestFinished(() => void vi.restoreAllMocks())
  const header = { revision: '6', cluster_id: 'c' }
  const watched: number[] = []
  const hosts: string[] = []
  for (const host of [0, 1]) {
    const server = createServer((request, response) => {
      if (request.url !== '/v3/watch') {
        response.writeHead(503)
        response.end(JSON.stringify({ message: 'etcdserver: request timed out' }))
        return
      }
      watched.push(host)
      response.write(`${JSON.stringify({ result: { header, created: true } })}\n`)
      const event = { kv: { key: base64('p/a'), value: base64('1'), mod_revision: '6' } }
      if (host === 1) response.write(`${JSON.stringify({ result: { header, events: [event] } })}\n`)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    hosts.push(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  }
  const source = new EtcdSource({ hosts, prefix: 'p/' })
  const ended = new AbortController()
  onTestFinished(() => ended.abort())
  const next = async () => {
    for await (const batch of source.read('5@c', ended.signal)) return batch
    return null
  }
  const first = expect(next()).rejects.toThrow('request timed out')
  await until('the first host watches', () => watched.length === 1)
  vi.advanceTimersByTime(15_000)
  await first
  const second = next()
  second.catch(() => {})
  await until('a host watches again', () => watched.length === 2)
  expect(watched).toEqual([0, 1])
  expect(await second).toMatchObject({ revision: '6@c' })
})

it('tells that the store answers when it watches, although nothing has changed', async () => {
  const server = createServer((_request, response) => {
    const header = { revision: '9', cluster_id: 'c' }
    response.write(`${JSON.stringify({ result: { header, created: true } })}\n`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close().closeAllConnections())
  const hosts = [`http://127.0.0.1:${(server.address() as AddressInfo).port}`]
  const source = new EtcdSource({ hosts, prefix: 'p/' })
  const ended = new AbortController()
  let told = 0
  const reading = source.read('5@c', ended.signal, null, () => told++).next()
  await until('it is told', () => told === 1)
  ended.abort()
  await reading.catch(() => {})
})

it('ends while its first contents are applied, and does not watch', async () => {
  const asked: (string | undefined)[] = []
  const server = createServer((request, response) => {
    asked.push(request.url)
    const header = { revision: '9', cluster_id: 'c' }
    if (request.url === '/v3/watch')
      response.write(`${JSON.stringify({ result: { header, created: true } })}\n`)
    else response.end(JSON.stringify({ header, count: '0', kvs: [] }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close().closeAllConnections())
  const hosts = [`http://127.0.0.1:${(server.address() as AddressInfo).port}`]
  const ended = new AbortController()
  const reading = new EtcdSource({ hosts, prefix: 'p/' }).read(null, ended.signal)
  expect((await reading.next()).value).toMatchObject({ all: [], revision: '9@c' })
  ended.abort()
  expect(await reading.next()).toMatchObject({ done: true })
  expect(asked).toEqual(['/v3/kv/range'])
})
