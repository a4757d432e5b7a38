import type { Server } from 'node:net'
import { checkOptions } from '../../checks/options.js'
import { wrongOption } from '../../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../../checks/shape.js'
import { integer, milliseconds, predicate } from '../../checks/values.js'
import { FdbError } from '../../errors.js'
import type { Check } from '../options/member-options.js'

export interface AnswersOptions {
  /** The path and query of the request. Default `/`. */
  path?: string | undefined
  /** The header `Host`, and the server name with TLS. Default `localhost`. */
  host?: string | undefined
  /** The required status of the response. Default: any of 200 to 399. */
  status?: number | undefined
  /** The time limit for the response's status and headers, in milliseconds. Default 5 000. */
  timeout?: number | undefined
}

const OPTIONS = map({
  path: optional(
    predicate<string>(
      'a path that begins with / and has only visible ASCII characters',
      value => typeof value === 'string' && /^\/[\x21-\x7e]*$/.test(value),
    ),
    '/',
  ),
  host: optional(
    predicate<string>(
      'a host, with or without port',
      value => typeof value === 'string' && /^[\w.:[\]-]+$/.test(value),
    ),
    'localhost',
  ),
  status: absent(integer(200, 599)),
  timeout: optional(milliseconds(1), 5_000),
} satisfies ShapeOf<AnswersOptions>)

/**
 * Returns a check for {@link Member.ready}: it sends a GET request to this process's own server, and requires a response. The request
 * arrives over a socket pair, because the version that serves would answer a request to the listener. The server sees a Unix connection,
 * and need not listen yet. For `http` and `https` servers; the certificate is not verified.
 *
 * The check rejects with ERR_FDB_CHECK, whose message and `details.reason` name the request and the response. `answers()` throws
 * ERR_FDB_OPTION.
 */
export function answers(server: Server, options: AnswersOptions = {}): Check {
  const { path, host, status, timeout } = checkOptions('answers()', options, OPTIONS)
  // Tests a property, because `instanceof` would load `node:https` in processes that do not use TLS.
  if (typeof server !== 'object' || server === null || !('maxHeadersCount' in server))
    throw wrongOption('server', server, 'an http.Server or https.Server (if you use a framework: its server)')
  const tls = 'setTicketKeys' in server
  const check: Check = async ({ signal }) => {
    // Loaded here, because most processes never need an HTTP client.
    const { privateHttpCheck } = await import('../../probing/http-check.js')
    const { runCheck } = await import('../../probing/health-check.js')
    const { connectionTo } = await import('../../probing/connection-to.js')
    const get = privateHttpCheck({ path, host, tls, status, connect: () => connectionTo(server) })
    const why = await runCheck(get, timeout, signal)
    if (why !== null)
      throw new FdbError('ERR_FDB_CHECK', `the server of this process does not answer as required: ${why}`, {
        details: { reason: why },
      })
  }
  return Object.defineProperty(check, 'name', { value: `answers ${path}` })
}
