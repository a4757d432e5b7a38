import { isIPv6 } from '../../base/lazy.js'
import type { Logger, Member, Section } from '../../index.js'
import type { ForwardedConfig, ListenerConfig, ProxyConfig } from '../config/config.js'
import { getIfReadable } from '../entries/difference.js'
import { storedCertificates } from '../tls/live-certificates.js'
import type { CertificateConfig } from '../tls/material.js'
import { CERTIFICATES, type CertificateMessage, certificatesSection } from '../tls/section.js'
import type { UpstreamConfig } from '../upstreams/upstream.js'
import { listenerOf, upstreamOf } from './entries.js'
import {
  type DeclaredSections,
  declaredSections,
  type ListenerMessage,
  type SettingMessage,
  type UpstreamMessage,
} from './sections.js'

/** The configuration of a proxy that follows the state of another proxy. The other proxy writes it, and updates it at each reload. */
export class FollowedConfig {
  readonly #declared: DeclaredSections
  readonly #certificates: Section<CertificateMessage>
  readonly #logger: Logger
  #unsubscribe: (() => void)[] = []

  constructor(member: Member, logger: Logger) {
    this.#declared = declaredSections(member)
    this.#certificates = member.section(CERTIFICATES, certificatesSection)
    this.#logger = logger
  }

  /** Combines the state with `own`, see {@link storedConfig}. */
  read(own: ProxyConfig): ProxyConfig {
    const certificates = storedCertificates(this.#certificates, (key, error) =>
      this.#logger.warn({ err: error, key }, 'a certificate cannot be read and is not used'),
    )
    return storedConfig({ ...this.#declared, certificates }, own)
  }

  /** Calls `changed` once for all changes of the same turn. */
  watch(changed: () => void): void {
    let scheduled = false
    const schedule = () => {
      if (scheduled) return
      scheduled = true
      setImmediate(() => {
        scheduled = false
        changed()
      })
    }
    const { upstreams, listeners, settings } = this.#declared
    const sections = [upstreams, listeners, settings, this.#certificates]
    this.#unsubscribe = sections.map(section => section.onChange(schedule))
  }

  stop(): void {
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe()
  }
}

/** Settings that may be `off` (null) or have several types. Any other setting is ignored if its type differs from that of this version's value. */
const FLEXIBLE_TYPES: ReadonlySet<string> = new Set([
  'instanceHeader',
  'via',
  'timeouts.request',
  'limits.body',
  'limits.connections',
  'limits.connectionsPerClient',
])
/** Settings that a follower never takes from the state. */
const OWN_SETTINGS: ReadonlySet<string> = new Set([
  'service',
  'control',
  'drain',
  'upgrade',
  'stateFile',
  'resolver',
])

/** Returns the configuration in the state. Takes from `own` the {@link OWN_SETTINGS}, and settings that the state lacks or this version cannot use. */
function storedConfig(
  stored: DeclaredSections & { certificates: CertificateConfig[] },
  own: ProxyConfig,
): ProxyConfig {
  const { routes, ...rest } = own
  const config: ProxyConfig = { ...structuredClone(rest), routes }
  for (const path of stored.settings.keys()) {
    const setting = getIfReadable(stored.settings, path)
    if (setting !== undefined) applySetting(config, path, setting)
  }
  config.upstreams = readAll<UpstreamMessage, UpstreamConfig>(stored.upstreams, upstreamOf)
  config.listeners = readAll<ListenerMessage, ListenerConfig>(stored.listeners, listenerOf)
  config.tls.certificates = stored.certificates
  return config
}

function applySetting(config: ProxyConfig, path: string, setting: SettingMessage): void {
  const names = path.split('.')
  const last = names.pop()!
  let at = config as unknown as Record<string, unknown>
  if (OWN_SETTINGS.has(names[0] ?? last)) return
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
    if (FLEXIBLE_TYPES.has(path) || typeof value === typeof at[last]) at[last] = value
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
    const message = getIfReadable(section, name)
    const config = message === undefined ? null : read(name, message)
    if (config !== null) found.push(config)
  }
  return found
}
