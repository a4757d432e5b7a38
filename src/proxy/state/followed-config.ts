import { checkMade } from '../../config/document.js'
import type { Logger, Member, Section } from '../../index.js'
import type { SourceStatus } from '../../sources/follow-source.js'
import type { ListenerConfig } from '../config/listeners.js'
import type { ProxyConfig } from '../config/schema.js'
import { getIfReadable } from '../entries/difference.js'
import { SOURCE, type SourceMessage, sourceSection, UPSTREAM_PREFIX } from '../entries/source-section.js'
import { storedCertificates, UNREADABLE } from '../tls/live-certificates.js'
import type { CertificateConfig } from '../tls/material.js'
import { CERTIFICATES, type CertificateMessage, certificatesSection } from '../tls/section.js'
import { type UpstreamConfig, upstreams, withTimeouts } from '../upstreams/shape.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { applySetting, listenerOf, upstreamOf } from './entries.js'
import {
  type DeclaredSections,
  declaredSections,
  type ListenerMessage,
  type UpstreamMessage,
} from './sections.js'

/** Parts of the configuration that another process or machine decides. */
export interface SharedConfig {
  /** Returns the configuration in force, made of this process's own and the shared parts. */
  read(own: ProxyConfig): ProxyConfig
  /** Calls `changed` once for all changes of the same turn. */
  watch(changed: () => void): void
  stop(): void
  /** Gives `upstreams` each new upstream at once: a route of the same change may lead to it. */
  adoptInto(upstreams: Pick<Upstreams, 'adopt'>): void
  /** The names of these upstreams: the configuration may lack them for some milliseconds. */
  readonly adopted: Iterable<string>
  /** How the store is followed, if it is a store. */
  readonly status?: SourceStatus
}

/** The configuration of a proxy that follows the state of another proxy. The other proxy writes it, and updates it at each reload. */
export class FollowedConfig implements SharedConfig {
  readonly #declared: DeclaredSections
  readonly #certificates: Section<CertificateMessage>
  readonly #source: Section<SourceMessage>
  #timeouts: ProxyConfig['timeouts'] | null = null
  readonly adopted = new Set<string>()
  readonly #logger: Logger
  #unsubscribe: (() => void)[] = []

  constructor(member: Pick<Member, 'section'>, logger: Logger) {
    this.#source = member.section(SOURCE, sourceSection)
    this.#declared = declaredSections(member)
    this.#certificates = member.section(CERTIFICATES, certificatesSection)
    this.#logger = logger
  }

  /** Combines the state with `own`, see {@link storedConfig}. */
  read(own: ProxyConfig): ProxyConfig {
    this.#timeouts = own.timeouts
    const certificates = storedCertificates(this.#certificates, (key, error) =>
      this.#logger.warn({ err: error, key }, UNREADABLE),
    )
    return storedConfig({ ...this.#declared, certificates }, own, (key, error) =>
      this.#logger.warn(
        { err: error, key },
        'an entry of the followed configuration cannot be used and is left out',
      ),
    )
  }

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
    this.#unsubscribe.push(...sections.map(section => section.onChange(schedule)))
  }

  /** The other process writes the upstream some milliseconds after the entry of its store. */
  adoptInto(adopting: Pick<Upstreams, 'adopt'>): void {
    const leave = this.#source.onChange(({ op, key }) => {
      if (op === 'clear') this.adopted.clear()
      if (!key.startsWith(UPSTREAM_PREFIX)) return
      const name = key.slice(UPSTREAM_PREFIX.length)
      this.adopted.delete(name)
      if (op !== 'put') return
      try {
        const value = JSON.parse(this.#source.get(key)?.json ?? '')
        for (const upstream of checkMade({ [name]: value }, upstreams))
          if (this.#timeouts !== null) adopting.adopt(withTimeouts(upstream, this.#timeouts))
        this.adopted.add(name)
      } catch (error) {
        this.#logger.debug({ err: error, key }, 'an upstream of the source cannot be used by this version')
      }
    })
    this.#unsubscribe.push(leave)
  }

  stop(): void {
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe()
  }
}

/** Returns the configuration in the state. See {@link applySetting} for the settings that it takes from `own`. */
function storedConfig(
  stored: DeclaredSections & { certificates: CertificateConfig[] },
  own: ProxyConfig,
  onUnusable: OnUnusable,
): ProxyConfig {
  const { routes, ...rest } = own
  const config: ProxyConfig = { ...structuredClone(rest), routes }
  for (const path of stored.settings.keys()) {
    const setting = getIfReadable(stored.settings, path, onUnusable)
    if (setting !== undefined) applySetting(config, path, setting)
  }
  config.upstreams = readAll<UpstreamMessage, UpstreamConfig>(stored.upstreams, upstreamOf, onUnusable)
  config.listeners = readAll<ListenerMessage, ListenerConfig>(stored.listeners, listenerOf, onUnusable)
  config.tls.certificates = stored.certificates
  return config
}

/** Called for an entry that cannot be read, or that a newer version has written for itself (`error` is undefined). */
type OnUnusable = (key: string, error?: unknown) => void

function readAll<M, C>(
  section: Section<M>,
  configOf: (name: string, message: M) => C | null,
  onUnusable: OnUnusable,
): C[] {
  const found: C[] = []
  for (const name of [...section.keys()].sort()) {
    const message = getIfReadable(section, name, onUnusable)
    if (message === undefined) continue
    const config = configOf(name, message)
    if (config === null) onUnusable(name)
    else found.push(config)
  }
  return found
}
