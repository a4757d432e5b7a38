// @ts-check
// node bench/http1/micro.mjs [--rounds N] [--requests N]: heads a second that one core parses, ours beside Node's own
// parser (llhttp, without http's objects on top), in turns in one run; the ratio is the figure that travels between machines.
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { RequestReader, ResponseReader, writeRequest } from '../../build/modules/http1/index.js'
import { median } from '../median.mjs'

const { HTTPParser } = createRequire(import.meta.url)('node:_http_common')
const { values: flags } = parseArgs({
  options: { rounds: { type: 'string', default: '9' }, requests: { type: 'string', default: '200000' } },
})
const rounds = Number(flags.rounds)
const requests = Number(flags.requests)

const SMALL = 'GET /small HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n'
const BROWSER = [
  'GET /catalogue/items?page=3&sort=price HTTP/1.1',
  'Host: shop.example:8443',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
  'Accept-Language: en-GB,en;q=0.5',
  'Accept-Encoding: gzip, deflate, br, zstd',
  'Referer: https://shop.example:8443/catalogue',
  'Connection: keep-alive',
  'Cookie: session=0f6e9a2c5b1d4f7e8a3b; theme=dark',
  'Cache-Control: no-cache',
  '\r\n',
].join('\r\n')
const ANSWER =
  'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n'

/** @param {Buffer} bytes @param {number} type */
function nodeParser(bytes, type) {
  const parser = new HTTPParser()
  parser.initialize(type, {}, 0, 0)
  let heads = 0
  parser[HTTPParser.kOnHeadersComplete | 0] = () => {
    heads++
    return 0
  }
  parser[HTTPParser.kOnMessageComplete | 0] = () => {}
  return () => {
    const result = parser.execute(bytes)
    if (result !== bytes.length) throw new Error(`Node's parser took ${result} of ${bytes.length} bytes`)
    return heads
  }
}

/** @param {Buffer} bytes @param {RequestReader | ResponseReader} reader */
function ourParser(bytes, reader) {
  let heads = 0
  return () => {
    if (reader.read(bytes) === null) throw new Error('our reader wants more bytes')
    return ++heads
  }
}

/** @param {Buffer} bytes */
function ourRelay(bytes) {
  const reader = new RequestReader()
  let length = 0
  return () => {
    const head = reader.read(bytes)
    if (head !== null) length += writeRequest(head, { extra: 'X-Forwarded-For: 203.0.113.7\r\n' }).length
    return length
  }
}

/** Heads a second. @param {() => number} one */
function rate(one) {
  const start = process.hrtime.bigint()
  for (let i = 0; i < requests; i++) one()
  return (requests * 1e9) / Number(process.hrtime.bigint() - start)
}

/** @param {string} name @param {() => number} ours @param {() => number} theirs */
function compare(name, ours, theirs) {
  const rates = { ours: /** @type {number[]} */ ([]), theirs: /** @type {number[]} */ ([]) }
  rate(ours)
  rate(theirs)
  for (let round = 0; round < rounds; round++) {
    rates.ours.push(rate(ours))
    rates.theirs.push(rate(theirs))
  }
  const [mine, node] = [median(rates.ours), median(rates.theirs)]
  const speeds = [mine, node].map(speed => `${(speed / 1e6).toFixed(2)} M/s`.padStart(11))
  console.log(`${name.padEnd(34)}${speeds.join('')}${(mine / node).toFixed(2).padStart(8)}`)
}

const small = Buffer.from(SMALL)
const browser = Buffer.from(BROWSER)
const answer = Buffer.from(ANSWER)
console.log(`Node ${process.versions.node}, median of ${rounds} rounds of ${requests}`)
console.log(`${''.padEnd(34)}       ours     Node's   ratio`)
compare(
  `request, ${small.length} bytes`,
  ourParser(small, new RequestReader()),
  nodeParser(small, HTTPParser.REQUEST),
)
compare(
  `request, ${browser.length} bytes`,
  ourParser(browser, new RequestReader()),
  nodeParser(browser, HTTPParser.REQUEST),
)
compare(
  `response, ${answer.length} bytes`,
  ourParser(answer, new ResponseReader()),
  nodeParser(answer, HTTPParser.RESPONSE),
)
compare(`read and rewritten, ${small.length} bytes`, ourRelay(small), nodeParser(small, HTTPParser.REQUEST))
compare(
  `read and rewritten, ${browser.length} bytes`,
  ourRelay(browser),
  nodeParser(browser, HTTPParser.REQUEST),
)
