import { type Logger, type Member, TicketKeys } from '../../index.js'
import { missingInternals } from '../../node/missing-internals.js'
import { TLS_INTERNALS } from '../../node/tls-internals.js'
import { TlsCarrier } from '../../tls13/tls-carrier.js'
import { CertificateTable } from './certificate-table.js'
import { listWarnings } from './client-ca.js'
import { HandshakeCounts, type HandshakeOptions, type HandshakeSettings, Handshakes } from './handshakes.js'
import { LiveCertificates } from './live-certificates.js'
import { type TlsSettings, validityProblem } from './material.js'

const TICKET_KEYS_NAME = 'proxy'

/** Certificates, ticket keys and counts, shared by all TLS listeners of a proxy. */
export class TlsTermination {
  readonly table = new CertificateTable()
  readonly counts: HandshakeCounts
  readonly liveCertificates: LiveCertificates
  readonly #member: Member
  readonly #logger: Logger
  readonly #handshakes = new Set<Handshakes>()
  readonly #carrier: TlsCarrier
  tickets: TicketKeys | null = null
  #config: TlsSettings

  constructor(member: Member, config: TlsSettings, logger: Logger) {
    this.#member = member
    this.#config = config
    this.#logger = logger
    this.#carrier = new TlsCarrier(err => logger.warn({ err }, err.message))
    this.counts = new HandshakeCounts(logger)
    this.liveCertificates = new LiveCertificates(member, this.table, logger)
    this.configure(config)
  }

  /** The carrier of connections that can move, or null if none can. */
  get carrier(): TlsCarrier | null {
    return this.#config.tls.move === 'on' ? this.#carrier : null
  }

  configure(config: TlsSettings): void {
    this.#config = config
    this.table.replace({ file: config.tls.certificates })
    for (const warning of tlsWarnings(config, Date.now())) this.#logger.warn(warning.facts, warning.text)
    if (config.listeners.some(({ tls }) => tls)) this.#shareTickets(config.tls.rotateTicketKeys)
    this.#configureHandshakes()
  }

  /** Writes the changes of the file to the state. Rejects if this process must not write. */
  write(config: TlsSettings): Promise<void> {
    return this.liveCertificates.write(config.tls.certificates)
  }

  handshakes(own: Omit<HandshakeOptions, 'certificates' | 'counts' | 'settings'>): Handshakes {
    const { table: certificates, counts } = this
    const handshakes = new Handshakes({ ...own, certificates, counts, settings: this.#settings })
    this.#handshakes.add(handshakes)
    return handshakes
  }

  release(handshakes: Handshakes): void {
    this.#handshakes.delete(handshakes)
  }

  stop(): void {
    this.tickets?.stop()
    this.#carrier.release()
    this.liveCertificates.stop()
  }

  get #settings(): HandshakeSettings {
    const { timeouts, tls } = this.#config
    if (this.tickets === null) this.#shareTickets(tls.rotateTicketKeys)
    const { current, previous } = this.tickets!
    return {
      timeout: timeouts.handshake,
      minVersion: tls.minVersion,
      ticketKeys: { current, previous },
      carrier: this.carrier,
    }
  }

  #shareTickets(rotateEvery: number): void {
    const former = this.tickets
    if (former?.rotateEvery === rotateEvery) return
    if (former === null)
      for (const missing of missingInternals(TLS_INTERNALS))
        this.#logger.warn({ err: missing }, missing.message)
    // Throws for an impossible interval: then the former keys are still rotated.
    this.tickets = new TicketKeys(this.#member, {
      name: TICKET_KEYS_NAME,
      rotateEvery,
      logger: this.#logger,
    })
    former?.stop()
    this.tickets.onChange(() => this.#configureHandshakes())
  }

  #configureHandshakes(): void {
    for (const handshakes of this.#handshakes) handshakes.configure(this.#settings)
  }
}

interface TlsWarning {
  readonly file: string
  readonly facts: object
  readonly text: string
}

/** Returns a warning for each certificate and each list of revoked certificates that is not valid at the time `now`. */
export function tlsWarnings({ tls, listeners }: TlsSettings, now: number): TlsWarning[] {
  const certificates = tls.certificates.flatMap(certificate => {
    const why = validityProblem(certificate, now)
    if (why === null) return []
    const { files, names } = certificate
    const facts = { certificate: files.cert, names }
    return [{ file: files.cert, facts, text: `clients will refuse a certificate: ${why}` }]
  })
  const lists = listeners.flatMap(({ name, clientCa }) =>
    clientCa === null
      ? []
      : listWarnings(clientCa, now).map(({ path, text }) => ({
          file: path,
          facts: { listener: name, revoked: path },
          text,
        })),
  )
  return [...certificates, ...lists]
}
