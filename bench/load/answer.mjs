// @ts-check
/**
 * A strict reader of one HTTP/1.1 answer. The referee must not be kind: what a lenient client repairs is an error
 * here. Text is latin1, one character a byte.
 */
const HEAD_LIMIT = 16_384

export class AnswerReader {
  status = 0
  /** @type {Map<string, string>} */
  headers = new Map()
  body = ''
  /** Any byte of the answer has arrived. */
  begun = false
  /** The whole answer has arrived. */
  done = false
  /** Why this is no HTTP/1.1 answer, when it is none. */
  broken = ''
  #rest = ''
  /** @type {'head' | 'length' | 'chunkSize' | 'chunk' | 'trailer'} */
  #state = 'head'
  #wanted = 0

  /**
   * Feed what arrived; look at `done` and `broken` afterwards.
   * @param {string} text
   */
  feed(text) {
    this.begun = true
    this.#rest = this.#rest === '' ? text : this.#rest + text
    while (!this.done && this.broken === '' && this.#step());
    if (this.done && this.#rest !== '') this.broken = `${this.#rest.length} bytes after the end of the answer`
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

  /** One step of parsing; false when more bytes are needed. */
  #step() {
    switch (this.#state) {
      case 'head':
        return this.#head()
      case 'length':
        return this.#take(() => {
          this.done = true
        })
      case 'chunkSize': {
        const line = this.#line()
        if (line === null) return false
        if (!/^[0-9a-fA-F]{1,8}(;.*)?$/.test(line))
          return this.#bad(`chunk size ${JSON.stringify(line.slice(0, 40))}`)
        this.#wanted = Number.parseInt(line, 16)
        this.#state = this.#wanted === 0 ? 'trailer' : 'chunk'
        return true
      }
      case 'chunk':
        return this.#take(() => {
          this.#state = 'chunkSize'
        })
      case 'trailer': {
        const line = this.#line()
        if (line === null) return false
        if (line === '') this.done = true
        return true
      }
    }
  }

  #head() {
    const end = this.#rest.indexOf('\r\n\r\n')
    if (end < 0) return this.#rest.length > HEAD_LIMIT ? this.#bad(`head over ${HEAD_LIMIT} bytes`) : false
    const [first = '', ...lines] = this.#rest.slice(0, end).split('\r\n')
    this.#rest = this.#rest.slice(end + 4)
    const status = /^HTTP\/1\.1 ([1-5]\d\d)( .*)?$/.exec(first)
    if (!status) return this.#bad(`status line ${JSON.stringify(first.slice(0, 60))}`)
    this.status = Number(status[1])
    for (const line of lines) {
      const colon = line.indexOf(':')
      const name = line.slice(0, colon).toLowerCase()
      if (colon < 1 || /[^!-~]/.test(name))
        return this.#bad(`header line ${JSON.stringify(line.slice(0, 60))}`)
      const value = line.slice(colon + 1).trim()
      if (this.headers.has(name) && (name === 'content-length' || name === 'transfer-encoding'))
        return this.#bad(`${name} twice`)
      this.headers.set(name, value)
    }
    return this.#framing()
  }

  #framing() {
    const length = this.headers.get('content-length')
    const encoding = this.headers.get('transfer-encoding')
    if (this.status === 204 || this.status === 304) {
      this.done = true
    } else if (encoding !== undefined) {
      if (encoding.toLowerCase() !== 'chunked' || length !== undefined)
        return this.#bad(`transfer-encoding ${encoding} with content-length ${length}`)
      this.#state = 'chunkSize'
    } else if (length !== undefined && /^\d{1,15}$/.test(length)) {
      this.#wanted = Number(length)
      if (this.#wanted === 0) this.done = true
      this.#state = 'length'
    } else {
      return this.#bad(`no length (content-length ${length}): a cut could not be told from the end`)
    }
    return true
  }

  /** Moves up to `#wanted` bytes to the body; a chunk has CR LF behind it.
   * @param {() => void} complete */
  #take(complete) {
    const part = this.#rest.slice(0, this.#wanted)
    this.body += part
    this.#wanted -= part.length
    this.#rest = this.#rest.slice(part.length)
    if (this.#wanted > 0) return false
    if (this.#state === 'chunk') {
      if (this.#rest.length < 2) return false
      if (!this.#rest.startsWith('\r\n')) return this.#bad('no CR LF behind a chunk')
      this.#rest = this.#rest.slice(2)
    }
    complete()
    return true
  }

  #line() {
    const end = this.#rest.indexOf('\r\n')
    if (end < 0) {
      if (this.#rest.length > HEAD_LIMIT) this.#bad(`line over ${HEAD_LIMIT} bytes`)
      return null
    }
    const line = this.#rest.slice(0, end)
    this.#rest = this.#rest.slice(end + 2)
    return line
  }

  /** @param {string} reason */
  #bad(reason) {
    this.broken = reason
    return false
  }
}
