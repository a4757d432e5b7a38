// @ts-check
const HEAD_BYTES = 16 * 1024
const LINE_BYTES = 64

/** Reads HTTP/1.1 answers out of the bytes of a connection, with a body by length or in chunks, and hands the body on as it comes. */
export class Reply {
  status = 0
  /** Of the head, with its last empty line. */
  head = ''
  done = false
  /** What was no answer; '' while nothing was. */
  wrong = ''
  #left = -1
  #chunked = false
  /** Within the chunk syntax: what is read next. @type {'size' | 'data' | 'end' | 'trailer'} */
  #next = 'size'
  #line = ''
  #onBody

  /** @param {(bytes: Buffer) => void} onBody borrowed for the call */
  constructor(onBody) {
    this.#onBody = onBody
  }

  get announcesClose() {
    return /\r\nconnection: *close\r\n/i.test(this.head)
  }

  /** @param {Buffer} chunk @returns {number} bytes that belong to this answer */
  feed(chunk) {
    let at = 0
    if (!this.head.endsWith('\r\n\r\n')) {
      at = this.#readHead(chunk)
      if (this.wrong !== '' || !this.head.endsWith('\r\n\r\n')) return at
    }
    while (at < chunk.length && !this.done && this.wrong === '')
      at = this.#chunked ? this.#readChunked(chunk, at) : this.#readLength(chunk, at)
    return at
  }

  /** @param {Buffer} chunk */
  #readHead(chunk) {
    const before = this.head.length
    const text = this.head + chunk.toString('latin1')
    const end = text.indexOf('\r\n\r\n')
    this.head = end < 0 ? text : text.slice(0, end + 4)
    if (end < 0) {
      if (text.length > HEAD_BYTES) this.wrong = 'a head without end'
      return chunk.length
    }
    const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(text) ?? []
    if (status === undefined) this.wrong = `no answer: ${JSON.stringify(text.slice(0, 60))}`
    this.status = Number(status)
    this.#chunked = /\r\ntransfer-encoding: *chunked\r\n/i.test(this.head)
    this.#left = Number(/\r\ncontent-length: *(\d+)\r\n/i.exec(this.head)?.[1] ?? (this.#chunked ? -1 : 0))
    if (this.#left === 0) this.done = true
    return end + 4 - before
  }

  /** @param {Buffer} chunk @param {number} at */
  #readLength(chunk, at) {
    const length = Math.min(this.#left, chunk.length - at)
    this.#left -= length
    this.#onBody(chunk.subarray(at, at + length))
    if (this.#left === 0 && !this.#chunked) this.done = true
    return at + length
  }

  /** @param {Buffer} chunk @param {number} at */
  #readChunked(chunk, at) {
    if (this.#next === 'data') {
      at = this.#readLength(chunk, at)
      if (this.#left === 0) this.#next = 'end'
      return at
    }
    const end = chunk.indexOf(10, at)
    this.#line += chunk.toString('latin1', at, end < 0 ? chunk.length : end + 1)
    if (this.#line.length > LINE_BYTES) this.wrong = `no chunk: ${JSON.stringify(this.#line)}`
    if (end < 0) return chunk.length
    const line = this.#line
    this.#line = ''
    if (this.#next === 'size') {
      if (!/^[0-9a-f]+\r\n$/i.test(line)) this.wrong = `no size of a chunk: ${JSON.stringify(line)}`
      this.#left = Number.parseInt(line, 16)
      this.#next = this.#left === 0 ? 'trailer' : 'data'
    } else {
      if (line !== '\r\n') this.wrong = `bytes where a chunk ends: ${JSON.stringify(line)}`
      else if (this.#next === 'trailer') this.done = true
      this.#next = 'size'
    }
    return end + 1
  }
}
