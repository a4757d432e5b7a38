// @ts-check
const HEAD_LIMIT = 16_384
const NO_BODY = new Set([101, 204, 304])

/** Looks at the next bytes of a body, borrowed for the call; says what is wrong with them. @typedef {(bytes: Buffer, status: number) => string} OnBody */

/**
 * A strict reader of one HTTP/1.1 answer, out of the bytes of a connection. The referee must not be kind: what a lenient client
 * repairs is an error here.
 */
export class AnswerReader {
  status = 0
  /** @type {Map<string, string>} */
  headers = new Map()
  /** Latin1, one character a byte; empty if another reader has the body. */
  body = ''
  bodyBytes = 0
  /** Any byte of the answer has arrived. */
  begun = false
  /** The whole head has. */
  hasHead = false
  /** The whole answer has. */
  done = false
  /** Why this is no HTTP/1.1 answer, or what is wrong with its body. */
  broken = ''
  #text = ''
  /** @type {'head' | 'length' | 'chunkSize' | 'chunk' | 'chunkEnd' | 'trailer'} */
  #state = 'head'
  #wanted = 0
  #onBody

  /** @param {OnBody | null} [onBody] */
  constructor(onBody = null) {
    this.#onBody = onBody
  }

  /**
   * Look at `done` and `broken` afterwards.
   * @param {Buffer} chunk
   * @returns {number} bytes that belong to this answer
   */
  feed(chunk) {
    this.begun = true
    let at = 0
    while (at < chunk.length && !this.done && this.broken === '') at = this.#step(chunk, at)
    return at
  }

  /** The server said that it closes the connection after this answer. */
  get announcesClose() {
    return /\bclose\b/i.test(this.headers.get('connection') ?? '')
  }

  /** The idle time in ms that the server promised (`Keep-Alive: timeout=`), Infinity when it promised none. */
  get keepAliveMs() {
    const match = /timeout=(\d+)/.exec(this.headers.get('keep-alive') ?? '')
    return match ? Number(match[1]) * 1000 : Number.POSITIVE_INFINITY
  }

  /** @param {Buffer} chunk @param {number} at @returns {number} where the next step begins */
  #step(chunk, at) {
    if (this.#state === 'length' || this.#state === 'chunk') return this.#readBody(chunk, at)
    const mark = this.#state === 'head' ? '\r\n\r\n' : '\n'
    const before = this.#text.length
    this.#text += chunk.toString('latin1', at)
    const end = this.#text.indexOf(mark, Math.max(0, before - mark.length))
    if (end < 0) {
      if (this.#text.length > HEAD_LIMIT) this.broken = `${this.#state} over ${HEAD_LIMIT} bytes`
      return chunk.length
    }
    const text = this.#text.slice(0, end + mark.length)
    this.#text = ''
    if (this.#state === 'head') this.#head(text.slice(0, end))
    else this.#line(text)
    return at + text.length - before
  }

  /** @param {Buffer} chunk @param {number} at */
  #readBody(chunk, at) {
    const bytes = chunk.subarray(at, at + this.#wanted)
    this.bodyBytes += bytes.length
    this.#wanted -= bytes.length
    if (this.#onBody === null) this.body += bytes.toString('latin1')
    else this.broken = this.#onBody(bytes, this.status)
    if (this.#wanted === 0) {
      if (this.#state === 'chunk') this.#state = 'chunkEnd'
      else this.done = true
    }
    return at + bytes.length
  }

  /** Reads a line of the chunked coding. @param {string} line with its end */
  #line(line) {
    if (this.#state === 'chunkSize') {
      if (!/^[0-9a-fA-F]{1,8}(;.*)?\r\n$/.test(line))
        return this.#bad(`chunk size ${JSON.stringify(line.slice(0, 40))}`)
      this.#wanted = Number.parseInt(line, 16)
      this.#state = this.#wanted === 0 ? 'trailer' : 'chunk'
    } else if (this.#state === 'chunkEnd') {
      if (line !== '\r\n') return this.#bad('no CR LF behind a chunk')
      this.#state = 'chunkSize'
    } else if (line === '\r\n') this.done = true
  }

  /** @param {string} head */
  #head(head) {
    this.hasHead = true
    const [first = '', ...lines] = head.split('\r\n')
    const status = /^HTTP\/1\.1 ([1-5]\d\d)( .*)?$/.exec(first)
    if (!status) return this.#bad(`status line ${JSON.stringify(first.slice(0, 60))}`)
    this.status = Number(status[1])
    for (const line of lines) {
      const colon = line.indexOf(':')
      const name = line.slice(0, colon).toLowerCase()
      if (colon < 1 || /[^!-~]/.test(name))
        return this.#bad(`header line ${JSON.stringify(line.slice(0, 60))}`)
      if (this.headers.has(name) && (name === 'content-length' || name === 'transfer-encoding'))
        return this.#bad(`${name} twice`)
      this.headers.set(name, line.slice(colon + 1).trim())
    }
    const length = this.headers.get('content-length')
    const encoding = this.headers.get('transfer-encoding')
    if (NO_BODY.has(this.status)) {
      this.done = true
    } else if (encoding !== undefined) {
      if (encoding.toLowerCase() !== 'chunked' || length !== undefined)
        return this.#bad(`transfer-encoding ${encoding} with content-length ${length}`)
      this.#state = 'chunkSize'
    } else if (length !== undefined && /^\d{1,15}$/.test(length)) {
      this.#wanted = Number(length)
      this.#state = 'length'
      this.done = this.#wanted === 0
    } else this.#bad(`no length (content-length ${length}): a cut could not be told from the end`)
  }

  /** @param {string} reason */
  #bad(reason) {
    this.broken = reason
  }
}
