import { describe, expect, it } from 'vitest'
import { ResponseReader } from '../../../src/http1/index.js'
import {
  type ClientRequest,
  passBody,
  planResponse,
  type ResponsePlan,
} from '../../../src/relay/response-plan.js'

const GET: ClientRequest = { method: 'GET', upgrade: false, http10: false, closeClient: false }

function plan(text: string, asked: Partial<ClientRequest> = {}): ResponsePlan {
  return planResponse(new ResponseReader().read(Buffer.from(text, 'latin1'))!, { ...GET, ...asked })
}

const facts = ({ body, coding, close, reusable }: ResponsePlan): unknown[] => [
  body?.kind ?? null,
  coding,
  close,
  reusable,
]

const LENGTH = 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n'
const CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
const UNTIL = 'HTTP/1.1 200 OK\r\n\r\n'

describe('the plan for a response', () => {
  it.each([
    ['by length', LENGTH, {}, ['length', 'as-is', false, true]],
    ['in chunks', CHUNKED, {}, ['chunked', 'as-is', false, true]],
    ['until close', UNTIL, {}, ['until-close', 'chunks', false, false]],
    [
      'of a server that closes',
      LENGTH.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'),
      {},
      ['length', 'as-is', false, false],
    ],
    ['of an HTTP/1.0 server', LENGTH.replace('/1.1', '/1.0'), {}, ['length', 'as-is', false, false]],
    ['to HEAD', LENGTH, { method: 'HEAD' }, [null, 'as-is', false, true]],
    ['to HEAD, until close', UNTIL, { method: 'HEAD' }, [null, 'as-is', false, true]],
    ['304', 'HTTP/1.1 304 N\r\nContent-Length: 3\r\n\r\n', {}, [null, 'as-is', false, true]],
    ['by length to HTTP/1.0', LENGTH, { http10: true }, ['length', 'as-is', false, true]],
    ['in chunks to HTTP/1.0', CHUNKED, { http10: true }, ['chunked', 'content', true, true]],
    ['until close to HTTP/1.0', UNTIL, { http10: true }, ['until-close', 'content', true, false]],
    ['empty', LENGTH.replace('3', '0'), {}, [null, 'as-is', false, true]],
    ['to a client that closes', LENGTH, { closeClient: true }, ['length', 'as-is', true, true]],
    ['2xx to CONNECT', LENGTH, { method: 'CONNECT', closeClient: true }, ['tunnel', 'as-is', true, false]],
  ] as const)('%s', (_name, text, asked, wanted) => {
    expect(facts(plan(text, asked))).toEqual(wanted)
  })

  it('never lets an HTTP/1.0 client see a transfer coding', () => {
    for (const method of ['GET', 'HEAD']) {
      expect(plan(CHUNKED, { http10: true, method }).head.toString()).not.toMatch(/transfer-encoding/i)
    }
  })

  it('announces what becomes of the connection', () => {
    expect(plan(LENGTH).head.toString()).toBe(LENGTH)
    expect(plan(LENGTH, { closeClient: true }).head.toString()).toMatch(/\r\nConnection: close\r\n\r\n$/)
    expect(plan(LENGTH, { http10: true }).head.toString()).toMatch(/\r\nConnection: keep-alive\r\n\r\n$/)
  })
})

describe('the body of an answer', () => {
  it('passes on to where it ends, from wherever it begins in a chunk', () => {
    const text = Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'latin1')
    const asked = { method: 'GET', upgrade: false, http10: false, closeClient: false }
    const { body, coding } = planResponse(new ResponseReader().read(text)!, asked)
    const written: string[] = []
    const to = {
      write: (bytes: Buffer | string, from?: number, end?: number) =>
        void written.push(Buffer.from(bytes).toString('latin1', from, end)),
    }
    expect(passBody(to, coding, body!, Buffer.from('...abc'), 3, null)).toBe(6)
    expect(passBody(to, coding, body!, Buffer.from('.deNEXT'), 1, null)).toBe(3)
    expect(written).toEqual(['abc', 'de'])
  })
})
