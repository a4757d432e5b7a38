import type { Logger } from '../../index.js'

/** Failures of so much time are told in one line: strangers must not fill the log. */
const TELL_AFTER_MS = 10_000
/** More kinds than this are counted as one. */
const MOST_KINDS = 32

/** `timeout`, `broken-off`, `no-tls` (a request in the clear, for example), or what OpenSSL calls it. */
export function failureOf(error: Error): string {
  const { code = 'unknown' } = error as NodeJS.ErrnoException
  switch (code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'timeout'
    case 'ECONNRESET':
    case 'EPIPE':
      return 'broken-off'
    case 'ERR_SSL_HTTP_REQUEST':
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
      return 'no-tls'
    default:
      return code
        .replace(/^ERR_SSL_/, '')
        .toLowerCase()
        .replaceAll('_', '-')
  }
}

/** How handshakes came to their end, since this process began. */
export class HandshakeCounts {
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failures = new Map<string, number>()
  #completed = 0
  #resumed = 0
  #untold = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  completed(resumed: boolean): void {
    this.#completed++
    if (resumed) this.#resumed++
  }

  failed(why: string): void {
    const kind = this.#failures.has(why) || this.#failures.size < MOST_KINDS ? why : 'other'
    this.#failures.set(kind, (this.#failures.get(kind) ?? 0) + 1)
    this.#untold.set(kind, (this.#untold.get(kind) ?? 0) + 1)
    this.#timer ??= setTimeout(() => this.#tell(), TELL_AFTER_MS).unref()
  }

  get report(): { completed: number; resumed: number; failed: Record<string, number> } {
    return {
      completed: this.#completed,
      resumed: this.#resumed,
      failed: Object.fromEntries(this.#failures),
    }
  }

  #tell(): void {
    this.#timer = undefined
    const failed = Object.fromEntries(this.#untold)
    this.#untold = new Map()
    this.#logger.warn({ failed }, 'TLS handshakes failed')
  }
}
