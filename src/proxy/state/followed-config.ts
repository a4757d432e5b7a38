import type { Logger, Member, Section } from '../../index.js'
import type { ProxyConfig } from '../config/config.js'
import { storedCertificates } from '../tls/live-certificates.js'
import { CERTIFICATES, type CertificateMessage, certificatesSection } from '../tls/section.js'
import { type DeclaredSections, declaredSections } from './sections.js'
import { storedConfig } from './stored-config.js'

/** The configuration of a proxy that follows another's state: that proxy has written it there, and updates it with each reload. */
export class FollowedConfig {
  readonly #declared: DeclaredSections
  readonly #certificates: Section<CertificateMessage>
  readonly #logger: Logger
  #unsubscribe: (() => void)[] = []

  /** Null: the state is the member's own. */
  static of(member: Member, logger: Logger): FollowedConfig | null {
    return member.follows === null ? null : new FollowedConfig(member, logger)
  }

  private constructor(member: Member, logger: Logger) {
    this.#declared = declaredSections(member)
    this.#certificates = member.section(CERTIFICATES, certificatesSection)
    this.#logger = logger
  }

  /** `own`: the settings that the state lacks, or that are each process's own. */
  read(own: ProxyConfig): ProxyConfig {
    const certificates = storedCertificates(this.#certificates, (key, error) =>
      this.#logger.warn({ err: error, key }, 'a certificate cannot be read and is not used'),
    )
    return storedConfig({ ...this.#declared, certificates }, own)
  }

  /** Calls `changed` once for changes of the same turn. */
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
