import { setTimeout as sleep } from 'node:timers/promises'
import { withinLimit } from '../base/limited-signal.js'
import { checkOptions } from '../checks/options.js'
import { isMap } from '../checks/place.js'
import { absent, map, optional, required, type ShapeOf } from '../checks/shape.js'
import { milliseconds, predicate } from '../checks/values.js'
import { FdbError } from '../errors.js'
import type { KnownKeys, Source, SourceBatch } from './source.js'

/** Limit for a whole answer. */
const ANSWER_MS = 30_000
/** Limit for the contents of an answer, decompressed: the process that reads it serves too. */
const MOST_MIB = 64
/** The part of the interval by which each process asks earlier or later, so that many machines do not ask at the same moment. */
const JITTER = 0.1

export interface HttpSourceOptions {
  /** Answers a GET with a JSON object: its keys are those of the section, its values are JSON. */
  url: string
  headers?: Readonly<Record<string, string>> | undefined
  /** Milliseconds between two requests; default 5,000. */
  interval?: number | undefined
}

const OPTIONS = map({
  url: required(
    predicate<string>(
      'an http: or https: URL',
      value => /^https?:\/\//.test(String(value)) && URL.canParse(String(value)),
    ),
  ),
  headers: absent(predicate<Readonly<Record<string, string>>>('an object with texts', isMap)),
  interval: optional(milliseconds(100), 5_000),
} satisfies ShapeOf<HttpSourceOptions>)

/** The JSON object that an HTTP server answers. The `ETag` is the revision: a server that has one answers 304 as long as nothing has changed. */
export class HttpSource implements Source {
  readonly id: string
  readonly #url: string
  readonly #headers: Readonly<Record<string, string>>
  readonly #interval: number

  /** Throws ERR_FDB_OPTION. */
  constructor(options: HttpSourceOptions) {
    const { url, headers, interval } = checkOptions('new HttpSource()', options, OPTIONS)
    const { origin, pathname } = new URL(url)
    // The query may have a secret, and the id is shown.
    this.id = `${origin}${pathname}`
    this.#url = url
    this.#headers = headers ?? {}
    this.#interval = interval
  }

  async *read(
    since: string | null,
    signal: AbortSignal,
    _known: KnownKeys | null = null,
    unchanged: () => void = () => {},
  ): AsyncGenerator<SourceBatch, void> {
    let etag = since
    while (!signal.aborted) {
      const batch = await this.#get(etag, signal)
      if (batch !== null) {
        etag = batch.revision
        yield batch
      } else if (!signal.aborted) unchanged()
      const delay = this.#interval * (1 + (Math.random() * 2 - 1) * JITTER)
      await sleep(delay, undefined, { signal, ref: false }).catch(() => {})
    }
  }

  /** Resolves with null if nothing has changed. Rejects with ERR_FDB_SOURCE, or the reason of `signal`. */
  async #get(etag: string | null, signal: AbortSignal): Promise<SourceBatch | null> {
    try {
      return await this.#ask(etag, signal)
    } catch (error) {
      if (signal.aborted || FdbError.is(error)) throw error
      throw new FdbError('ERR_FDB_SOURCE', `${this.id}: ${whyOf(error as Error)}`, {
        retryable: true,
        cause: error,
      })
    }
  }

  async #ask(etag: string | null, signal: AbortSignal): Promise<SourceBatch | null> {
    const headers = {
      accept: 'application/json',
      ...this.#headers,
      ...(etag !== null && { 'if-none-match': etag }),
    }
    return await withinLimit(signal, ANSWER_MS, async limited => {
      const response = await fetch(this.#url, { headers, signal: limited })
      if (response.status === 304 && etag !== null) return null
      if (response.status !== 200) {
        await response.body?.cancel()
        throw this.#error(`status ${response.status}; 200 and 304 are usable`)
      }
      const contents: unknown = JSON.parse(await this.#textOf(response))
      if (!isMap(contents)) throw this.#error('no JSON object')
      const all = Object.entries(contents).map(([key, value]) => ({
        key,
        value: Buffer.from(JSON.stringify(value)),
      }))
      return { all, revision: response.headers.get('etag') }
    })
  }

  async #textOf({ body }: Response): Promise<string> {
    const parts: Uint8Array[] = []
    let length = 0
    for await (const part of body ?? []) {
      length += part.length
      if (length > MOST_MIB * 1024 * 1024) throw this.#error(`more than ${MOST_MIB} MiB`)
      parts.push(part)
    }
    return new TextDecoder().decode(Buffer.concat(parts))
  }

  #error(answer: string): FdbError {
    return new FdbError('ERR_FDB_SOURCE', `${this.id} answered with ${answer}`, { retryable: true })
  }
}

/** `fetch()` says only that it failed, and its cause says why; that of several addresses has only a code. */
function whyOf({ cause, code, message }: Error & { code?: unknown }): string {
  return cause instanceof Error ? whyOf(cause) : message || String(code)
}
