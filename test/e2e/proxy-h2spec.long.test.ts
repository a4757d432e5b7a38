import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { Edge, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'

const run = promisify(execFile)
/** The cases that each server on Node's http2 fails: nghttp2 ignores frames of streams that it has forgotten, and Node ends a session after an answer to no PING. */
const OF_NODE = [
  'closed: Sends a DATA frame after sending RST_STREAM frame',
  'closed: Sends a HEADERS frame after sending RST_STREAM frame',
  'closed: Sends a DATA frame',
  'closed: Sends a HEADERS frame',
  'Sends stream identifier that is numerically smaller than previous',
  'Sends a PING frame with ACK',
]
/** Without TLS a client with an invalid preface may use HTTP/1.1: it gets an answer that says so. */
const WITHOUT_TLS = ['Sends invalid connection preface']

it.skipIf(!has('h2spec')).each([
  { tls: true, known: OF_NODE },
  { tls: false, known: [...WITHOUT_TLS, ...OF_NODE] },
])('h2spec passes, except in cases of Node itself (tls: $tls)', async ({ tls, known }) => {
  const app = await upstream()
  const proxy = await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
  })
  const securePort = await freePort()
  proxy.write({
    listeners: [
      { name: 'http', address: `tcp://127.0.0.1:${proxy.port}`, http2: true },
      { name: 'https', address: `tcp://127.0.0.1:${securePort}`, tls: true, http2: true },
    ],
    tls: { certificates: [proxy.issue('localhost')] },
  })
  await proxy.next()
  const report = proxy.sandbox.file('h2spec.xml')
  const where = tls ? ['-t', '-k', '-p', `${securePort}`] : ['-p', `${proxy.port}`]
  // A request must be under way while the frames of its case arrive, also on a busy machine.
  const args = ['-h', '127.0.0.1', ...where, '-P', '/slow', '-o', '5', '-j', report]
  // The exit code says only that a case failed.
  await run('h2spec', args).catch(() => {})
  const cases = readFileSync(report, 'utf8').split('<testcase ').slice(1)
  const failed = cases
    .filter(text => /<failure|<error/.test(text))
    .map(text => /classname="([^"]*)"/.exec(text)![1])
  expect(cases.length).toBe(145)
  expect(cases.filter(text => text.includes('<skipped'))).toEqual([])
  expect(failed.toSorted()).toEqual(known.toSorted())
})
