/** The commands that `fd-broker certificates` sends to a running proxy. Request and reply are JSON. */
import { jsonValue } from '../../base/json.js'
import { FdbError, type Member } from '../../index.js'
import type { CertificateAddition, ListedCertificate } from './live-certificates.js'
import type { TlsTermination } from './termination.js'

export const CERTIFICATE_COMMANDS = {
  add: 'certificates.add',
  remove: 'certificates.remove',
  list: 'certificates.list',
} as const

export interface AddCertificate {
  /** PEM: the certificate, then those of its issuers. */
  cert: string
  /** PEM. */
  key: string
  names?: string[]
  replace?: boolean
}

export interface CertificateList {
  certificates: ListedCertificate[]
  /** Null if no listener uses TLS. */
  ticketKeys: { created: number; rotateEvery: number } | null
  handshakes: { completed: number; resumed: number; failed: Record<string, number> }
}

export function serveCertificateCommands(member: Member, tls: TlsTermination): void {
  member
    .command(CERTIFICATE_COMMANDS.add, async (body, { signal }) => {
      const reply: CertificateAddition = await tls.liveCertificates.add(parse(body), signal)
      return JSON.stringify(reply)
    })
    .command(CERTIFICATE_COMMANDS.remove, async (body, { signal }) =>
      JSON.stringify(await tls.liveCertificates.remove(parse(body), signal)),
    )
    .command(CERTIFICATE_COMMANDS.list, () => {
      const { tickets, counts } = tls
      const ticketKeys = tickets && { created: tickets.createdAt.getTime(), rotateEvery: tickets.rotateEvery }
      const reply: CertificateList = {
        certificates: tls.liveCertificates.list(),
        ticketKeys,
        handshakes: counts.report,
      }
      return JSON.stringify(reply)
    })
}

function parse(body: Buffer): unknown {
  const value = jsonValue(body.toString())
  if (value !== undefined) return value
  // The message must not show the text, which may contain a key.
  throw new FdbError('ERR_FDB_CERTIFICATE', `the request (${body.length} bytes) is not valid JSON`)
}
