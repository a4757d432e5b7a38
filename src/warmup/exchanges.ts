import type { StandIn } from './stand-in.js'

const LF = 0x0a
const H = 0x48
const P = 0x50

const browser = [
  'GET /some/where/17.html?of=this HTTP/1.1',
  'Host: one.invalid',
  'Connection: keep-alive',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
  'Accept-Encoding: gzip, deflate, br',
  'Accept-Language: en-US,en;q=0.9',
  'Cookie: session=0123456789abcdef; theme=dark',
  'Referer: http://one.invalid/',
  '\r\n',
].join('\r\n')
const short = 'GET /17 HTTP/1.1\r\nHost: one.invalid\r\n\r\n'
const post = [
  'POST /form HTTP/1.1',
  'Host: two.invalid:8080',
  'Content-Type: text/plain',
  'Content-Length: 7',
  '\r\n',
].join('\r\n')
const head = 'HEAD /other/17 HTTP/1.1\r\nHost: two.invalid\r\nAccept: */*\r\n\r\n'

/** Heads end with LF, and the body does not. */
const REQUESTS = [short, browser, `${post}a=1&b=2`, short, browser, head].map(text => Buffer.from(text))

const answerHead = (bytes: number) =>
  [
    'HTTP/1.1 200 OK',
    'Date: Sat, 21 Nov 2026 09:00:00 GMT',
    'Server: none',
    'Content-Type: text/html; charset=utf-8',
    'Cache-Control: no-cache',
    'ETag: "0123456789abcdef"',
    'Set-Cookie: session=0123456789abcdef; Path=/; HttpOnly',
    `Content-Length: ${bytes}`,
    '\r\n',
  ].join('\r\n')
const ANSWERS = [
  'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n',
  answerHead(480) + 'x'.repeat(480),
].map(text => Buffer.from(text))
const ANSWER_TO_HEAD = Buffer.from(answerHead(480))

/** What clients ask, one after the other. */
export function request(number: number): Buffer {
  return REQUESTS[number % REQUESTS.length]!
}

/** As a server that was sent the end of a request, or a part of one. */
export function answer(server: StandIn, heard: Buffer, bytes: number, number: number): void {
  const ofHead = heard[bytes - 1] === LF
  // Its body comes.
  if (ofHead && heard[0] === P) return
  server.say(ofHead && heard[0] === H ? ANSWER_TO_HEAD : ANSWERS[number % ANSWERS.length]!)
}
