import { isIPv6 } from '../../base/lazy.js'
import type { Section } from '../../index.js'
import type { ForwardedConfig, ListenerConfig, ProxyConfig, UpstreamConfig } from '../config/config.js'
import { readable } from '../entries/difference.js'
import type { CertificateConfig } from '../tls/material.js'
import { listenerOf, upstreamOf } from './entries.js'
import type { DeclaredSections, ListenerMessage, SettingMessage, UpstreamMessage } from './sections.js'

export interface StoredConfig extends DeclaredSections {
  readonly certificates: readonly CertificateConfig[]
}

/** Settings that may be off, or of several types. The others have the type that this version knows. */
const LOOSE: ReadonlySet<string> = new Set([
  'instanceHeader',
  'via',
  'timeouts.request',
  'limits.body',
  'limits.connections',
  'limits.connectionsPerClient',
])
/** Each process's own, from its start. */
const OWN: ReadonlySet<string> = new Set(['service', 'control', 'drain', 'upgrade', 'stateFile', 'resolver'])

/** The configuration in the state. `own`: each process's settings, and those that the state lacks or this version cannot use. */
export function storedConfig(stored: StoredConfig, own: ProxyConfig): ProxyConfig {
  const { routes, ...rest } = own
  const config: ProxyConfig = { ...structuredClone(rest), routes }
  for (const path of stored.settings.keys()) {
    const setting = readable(stored.settings, path)
    if (setting !== undefined) applySetting(config, path, setting)
  }
  config.upstreams = readAll<UpstreamMessage, UpstreamConfig>(stored.upstreams, upstreamOf)
  config.listeners = readAll<ListenerMessage, ListenerConfig>(stored.listeners, listenerOf)
  config.tls.certificates = [...stored.certificates]
  return config
}

function applySetting(config: ProxyConfig, path: string, setting: SettingMessage): void {
  const names = path.split('.')
  const last = names.pop()!
  let at = config as unknown as Record<string, unknown>
  if (OWN.has(names[0] ?? last)) return
  for (const name of names) {
    const below = Object.hasOwn(at, name) ? at[name] : null
    if (typeof below !== 'object' || below === null) return
    at = below as Record<string, unknown>
  }
  if (!Object.hasOwn(at, last)) return
  const { number, flag, text, list } = setting
  if (path === 'forwarded.trust') at[last] = rangesOf(list?.items ?? [])
  else {
    const value = number ?? flag ?? text ?? null
    if (LOOSE.has(path) || typeof value === typeof at[last]) at[last] = value
  }
}

function rangesOf(items: readonly string[]): ForwardedConfig['trust'] {
  return items.map(item => {
    const [address = '', prefix = ''] = item.split('/')
    return { address, prefix: Number(prefix), family: isIPv6(address) ? 'ipv6' : 'ipv4' }
  })
}

function readAll<M, C>(section: Section<M>, read: (name: string, message: M) => C | null): C[] {
  const found: C[] = []
  for (const name of [...section.keys()].sort()) {
    const message = readable(section, name)
    const config = message === undefined ? null : read(name, message)
    if (config !== null) found.push(config)
  }
  return found
}
