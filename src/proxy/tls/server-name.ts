/**
 * Names by which certificates are found:
 *
 *     example.com      this name
 *     *.example.com    every name that is one label longer, as clients understand it in certificates
 */

import { isIPv4 } from 'node:net'
import { shown, Wrong } from '../../config/wrong.js'
import { canonicalHost } from '../routes/host.js'

/** The one spelling of a name of a certificate. */
export function canonicalName(given: string): string | Wrong {
  const host = given === '*' ? new Wrong('') : canonicalHost(given)
  if (typeof host === 'string' && !host.startsWith('[') && !isIPv4(host)) return host
  if (typeof host !== 'string' && host.why !== '') return host
  return new Wrong(`${shown(given)} is no name that clients ask for (app.example.com, *.example.com)`)
}

/** Names to look up for what a client asked for, the most specific first. */
export function lookedUp(serverName: string): [exact: string, wildcard: string] {
  const exact = serverName.toLowerCase()
  return [exact, `*${exact.slice(Math.max(0, exact.indexOf('.')))}`]
}
