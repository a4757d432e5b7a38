import type { Server } from 'node:net'
import {
  checkOptions,
  milliseconds,
  type OptionChecks,
  predicate,
  wrongOption,
} from '../base/check-option.js'
import { FdbError } from '../errors.js'
import type { Check } from './member-options.js'

export interface AnswersOptions {
  /** The path of the request, with its query. Default `/`. */
  path?: string
  /** The header `Host`, and the server name with TLS. Default `localhost`. */
  host?: string
  /** The status that passes. Default: any of 200 to 399. */
  status?: number
  /** The limit for the response's head, in milliseconds. Default 5 000. */
  timeout?: number
}

const OPTIONS: OptionChecks<AnswersOptions> = {
  path: predicate(
    'a path that begins with / and has neither spaces nor letters beyond ASCII',
    value => typeof value === 'string' && /^\/[\x21-\x7e]*$/.test(value),
  ),
  host: predicate(
    'a host, with or without port',
    value => typeof value === 'string' && /^[\w.:[\]-]+$/.test(value),
  ),
  status: predicate(
    'a status from 200 to 599',
    value => Number.isInteger(value) && Number(value) >= 200 && Number(value) <= 599,
  ),
  timeout: milliseconds(1),
}

/**
 * A check for {@link Member.ready}: this process's own server answers a GET request. The request arrives over a socket pair, because on the
 * listener the version that serves would answer it. The server sees a Unix connection, and need not listen yet. For `http` and `https`
 * servers; with TLS the certificate is not verified.
 *
 * The check rejects with ERR_FDB_CHECK, whose message names the request and the response. Throws ERR_FDB_OPTION.
 */
export function answers(server: Server, options: AnswersOptions = {}): Check {
  checkOptions('answers()', options, OPTIONS)
  const { path = '/', host = 'localhost', status, timeout = 5_000 } = options
  // Checks properties instead of the class, so that a process without TLS need not load it.
  if (typeof server !== 'object' || server === null || !('maxHeadersCount' in server))
    throw wrongOption('server', server, 'a server of http or https (a framework has one; give that)')
  const tls = 'setTicketKeys' in server
  const check: Check = async ({ signal }) => {
    // Loaded here, because most processes never need an HTTP client.
    const { privateHttpCheck } = await import('../probing/http-check.js')
    const { runCheck } = await import('../probing/health-check.js')
    const { connectionTo } = await import('../probing/connection-to.js')
    const get = privateHttpCheck({ path, host, tls, status, connect: () => connectionTo(server) })
    const why = await runCheck(get, timeout, signal)
    if (why !== null)
      throw new FdbError('ERR_FDB_CHECK', `the server of this process does not answer as required: ${why}`)
  }
  return Object.defineProperty(check, 'name', { value: `answers ${path}` })
}
