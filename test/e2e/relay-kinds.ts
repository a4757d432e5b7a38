import { FORWARDED } from './relay-world.js'

/**
 * Every kind of exchange, as bytes: what the client sends, what the server must get, what it answers, what the client
 * must get. The server's answers are found by path; `/N` is answered by `replies[N]`.
 */
export interface Kind {
  name: string
  sends: string
  /** The client sends FIN behind it. */
  ends?: boolean
  gets: string
  replies: string[]
  /** The server sends FIN behind its last reply. */
  replyEnds?: boolean
  clientGets: string
  /** The relay ends the client's connection by itself. */
  closes: boolean
}

const F = FORWARDED()
const get = (n: number, lines = ''): string => `GET /${n} HTTP/1.1\r\nHost: a\r\n${lines}\r\n`
const got = (n: number, lines = ''): string => `GET /${n} HTTP/1.1\r\nHost: a\r\n${lines}${F}\r\n`
const ok = (body: string, lines = ''): string =>
  `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n${lines}\r\n${body}`
const CHUNKS = '5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTr: v\r\n\r\n'
const QUOTED = '5;a=";\\\\\\"=";b\r\nhello\r\n0;c=""\r\n\r\n'
const TE = 'Transfer-Encoding: chunked\r\n'

const same = (name: string, reply: string): Kind => ({
  name,
  sends: get(0),
  gets: got(0),
  replies: [reply],
  clientGets: reply,
  closes: false,
})

export const KINDS: Kind[] = [
  same('GET, answer by length', ok('hello')),
  same('GET, empty answer', ok('')),
  same('GET, chunked answer with extension and trailer', `HTTP/1.1 200 OK\r\n${TE}\r\n${CHUNKS}`),
  same('204', 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n'),
  same('304 that names a length', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n'),
  same('103 before the answer', `HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n${ok('hello')}`),
  same('an answer of 20 KB', ok('0123456789'.repeat(2_000))),
  {
    name: 'GET, answer until close becomes chunks',
    sends: get(0) + get(1),
    gets: got(0) + got(1),
    replies: ['HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2'],
    replyEnds: true,
    clientGets: `HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2`,
    closes: false,
  },
  {
    name: 'HEAD that names a length',
    sends: 'HEAD /0 HTTP/1.1\r\nHost: a\r\n\r\n',
    gets: `HEAD /0 HTTP/1.1\r\nHost: a\r\n${F}\r\n`,
    replies: ['HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n'],
    clientGets: 'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n',
    closes: false,
  },
  {
    name: 'POST by length',
    sends: 'POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world',
    gets: `POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n${F}\r\nhello world`,
    replies: [ok('thanks')],
    clientGets: ok('thanks'),
    closes: false,
  },
  {
    name: 'POST to a target with raw characters, Host with an empty port, in chunks with quoted extensions',
    sends: `POST /0?"<q>=\xc3\xa9\xff HTTP/1.1\r\nHost: a:\r\n${TE}\r\n${QUOTED}`,
    gets: `POST /0?"<q>=\xc3\xa9\xff HTTP/1.1\r\nHost: a:\r\n${TE}${F}\r\n${QUOTED}`,
    replies: [ok('thanks')],
    clientGets: ok('thanks'),
    closes: false,
  },
  {
    name: 'POST in chunks',
    sends: `POST /0 HTTP/1.1\r\nHost: a\r\n${TE}\r\n${CHUNKS}`,
    gets: `POST /0 HTTP/1.1\r\nHost: a\r\n${TE}${F}\r\n${CHUNKS}`,
    replies: [ok('thanks')],
    clientGets: ok('thanks'),
    closes: false,
  },
  {
    name: 'POST without a body',
    sends: 'POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n',
    gets: `POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n${F}\r\n`,
    replies: [ok('')],
    clientGets: ok(''),
    closes: false,
  },
  {
    name: 'Expect: 100-continue',
    sends: 'POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello',
    gets: `POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n${F}\r\nhello`,
    replies: [`HTTP/1.1 100 Continue\r\n\r\n${ok('thanks')}`],
    clientGets: `HTTP/1.1 100 Continue\r\n\r\n${ok('thanks')}`,
    closes: false,
  },
  {
    name: 'three pipelined requests, one with a body',
    sends: `${get(0)}POST /1 HTTP/1.1\r\nHost: a\r\n${TE}\r\n${CHUNKS}${get(2)}`,
    gets: `${got(0)}POST /1 HTTP/1.1\r\nHost: a\r\n${TE}${F}\r\n${CHUNKS}${got(2)}`,
    replies: [ok('one'), ok('two'), ok('three')],
    clientGets: ok('one') + ok('two') + ok('three'),
    closes: false,
  },
  {
    name: 'an empty line before the request',
    sends: `\r\n${get(0)}`,
    gets: got(0),
    replies: [ok('hello')],
    clientGets: ok('hello'),
    closes: false,
  },
  {
    name: 'fields of one connection only',
    sends: get(
      0,
      'Connection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Kept: 2\r\n',
    ),
    gets: got(0, 'X-Kept: 2\r\n'),
    replies: [ok('hello', 'Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\n')],
    clientGets: ok('hello', 'X-Kept: 2\r\n'),
    closes: false,
  },
  {
    name: 'forwarded fields that the client made up',
    sends: get(
      0,
      'X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nx-forwarded-host: b\r\n',
    ),
    gets: got(0),
    replies: [ok('hello')],
    clientGets: ok('hello'),
    closes: false,
  },
  {
    name: 'a client that asks for close',
    sends: get(0, 'Connection: close\r\n'),
    gets: got(0),
    replies: [ok('hello')],
    clientGets: ok('hello', 'Connection: close\r\n'),
    closes: true,
  },
  {
    name: 'a server that announces close',
    sends: get(0) + get(1),
    gets: got(0) + got(1),
    replies: [ok('one', 'Connection: close\r\n'), ok('two')],
    clientGets: ok('one') + ok('two'),
    closes: false,
  },
  {
    name: 'a client that half-closes behind two requests',
    sends: get(0) + get(1),
    ends: true,
    gets: got(0) + got(1),
    replies: [ok('one'), ok('two')],
    clientGets: ok('one') + ok('two', 'Connection: close\r\n'),
    closes: true,
  },
  {
    name: 'HTTP/1.0, answer by length',
    sends: 'GET /0 HTTP/1.0\r\nHost: a\r\n\r\n',
    gets: got(0),
    replies: [ok('hello')],
    clientGets: ok('hello', 'Connection: close\r\n'),
    closes: true,
  },
  {
    name: 'HTTP/1.0 that asks for keep-alive, twice',
    sends: 'GET /0 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n'.repeat(2),
    gets: got(0) + got(0),
    replies: [ok('hello')],
    clientGets: ok('hello', 'Connection: keep-alive\r\n').repeat(2),
    closes: false,
  },
  {
    name: 'HTTP/1.0, chunked answer and interim',
    sends: 'GET /0 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n',
    gets: got(0),
    replies: [`HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n${TE}\r\n${CHUNKS}`],
    clientGets: 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhelloabcdefghijklmnopqrstuvwxyz',
    closes: true,
  },
  {
    name: 'HTTP/1.0, answer until close',
    sends: 'GET /0 HTTP/1.0\r\nHost: a\r\n\r\n',
    gets: got(0),
    replies: ['HTTP/1.0 200 OK\r\n\r\nuntil the very end'],
    replyEnds: true,
    clientGets: 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the very end',
    closes: true,
  },
  {
    name: 'Upgrade, granted: bytes both ways',
    sends: get(0, 'Connection: Upgrade\r\nUpgrade: echo\r\n'),
    gets: got(0, '').replace(/\r\n$/, 'Connection: upgrade\r\nUpgrade: echo\r\n\r\n'),
    replies: [
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello \x00\xff',
    ],
    clientGets:
      'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello \x00\xff',
    closes: false,
  },
  {
    name: 'Upgrade, not granted, and the next request',
    sends: get(0, 'Connection: Upgrade\r\nUpgrade: echo\r\n') + get(1),
    gets: got(0, '').replace(/\r\n$/, 'Connection: upgrade\r\nUpgrade: echo\r\n\r\n') + got(1),
    replies: [ok('no'), ok('two')],
    clientGets: ok('no') + ok('two'),
    closes: false,
  },
  {
    name: 'CONNECT, granted: bytes both ways',
    sends: 'CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n',
    gets: `CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n${FORWARDED('b:443')}\r\n`,
    replies: ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'],
    clientGets: 'HTTP/1.1 200 OK\r\n\r\nhello',
    closes: false,
  },
]
