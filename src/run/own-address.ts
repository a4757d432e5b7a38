import { networkInterfaces } from 'node:os'
import type { NamedListener } from '../os/foreign-listeners.js'
import type { ReadinessSpec } from '../versions/version-probe.js'

const ANY: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

/**
 * Returns what is wrong if the check asks a listener of `run`, or null. The serving version accepts there too: its answer would make a next
 * version ready that never started. For `tcp:` the kernel alone answers.
 */
export function ownAddressProblem(ready: ReadinessSpec, listen: readonly NamedListener[]): string | null {
  const asked = readinessAddress(ready)
  const own = asked && listen.find(({ spec }) => spec.port === asked.port && reaches(asked.host, spec.host))
  if (!asked || !own) return null
  return `it asks ${asked.text}, which is the listener "${own.name}": the serving version accepts there too, so its answer tells nothing about the next version. Give http:/PATH (run adds a listener that only the next version has), notify, fd, or a URL at an address of its own`
}

function readinessAddress(ready: ReadinessSpec): { host: string; port: number; text: string } | null {
  if (ready.kind === 'tcp') return { host: ready.host, port: ready.port, text: `${ready.host}:${ready.port}` }
  if (ready.kind !== 'http' || ready.url.startsWith('/')) return null
  const { host: text, hostname, port } = new URL(ready.url)
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(port || 80), text }
}

/** Whether a client that connects to `host` reaches a socket that is bound to `bound`. A name other than localhost is not looked up. */
function reaches(host: string, bound: string): boolean {
  if (host === bound) return true
  const isLoopback = host === 'localhost' || host === '::1' || host.startsWith('127.')
  if (ANY.has(bound)) return isLoopback || ANY.has(host) || isOwn(host)
  return (host === 'localhost' || ANY.has(host)) && (bound === '::1' || bound.startsWith('127.'))
}

function isOwn(host: string): boolean {
  return Object.values(networkInterfaces()).some(addresses =>
    addresses?.some(({ address }) => address === host),
  )
}
