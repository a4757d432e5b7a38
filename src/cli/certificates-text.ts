import type { CertificateAddition, CertificateList, ListedCertificate } from '../proxy/tls/commands.js'
import { formatDuration } from './duration.js'
import { plain, table } from './table.js'

const DAY = 86_400_000
/** Of a fingerprint. */
const SHOWN = 16

export function certificatesText(
  { certificates, ticketKeys, handshakes }: CertificateList,
  now: number,
): string {
  const rows = certificates.map(certificate => [
    certificate.name,
    standing(certificate),
    validity(certificate, now),
    plain(certificate.fingerprint).slice(0, SHOWN),
    certificate.generation,
    certificate.names.join(' '),
  ])
  const lines =
    rows.length === 0
      ? ['no certificates']
      : table(['NAME', 'ORIGIN', 'EXPIRES', 'FINGERPRINT', 'GENERATION', 'NAMES'], rows)
  const { completed, resumed, failed } = handshakes
  const failures = Object.entries(failed).map(([kind, count]) => `, ${count} ${plain(kind)}`)
  lines.push('', `handshakes: ${completed} completed, ${resumed} of them resumed${failures.join('')}`)
  if (ticketKeys !== null) {
    const age = formatDuration(Math.max(0, now - ticketKeys.created) / 1000)
    lines.push(`ticket keys: ${age} old, made anew after ${formatDuration(ticketKeys.rotateEvery / 1000)}`)
  }
  return `${lines.join('\n')}\n`
}

export function additionText({ name, outcome, shadows, warning }: CertificateAddition): string {
  const lines = [outcome === 'unchanged' ? `${plain(name)} is there already` : `${plain(name)} ${outcome}`]
  if (shadows.length > 0) lines.push(`in place of the file’s: ${shadows.map(plain).join(', ')}`)
  if (warning !== null) lines.push(`warning: clients will refuse it: ${plain(warning)}`)
  return `${lines.join('\n')}\n`
}

function standing({ origin, names, inForce, standard }: ListedCertificate): string {
  if (standard) return `${origin} (default)`
  return names.length > 0 && inForce.length === 0 ? `${origin} (out of force)` : origin
}

function validity({ notAfter }: ListedCertificate, now: number): string {
  const day = new Date(notAfter).toISOString().slice(0, 10)
  const left = Math.floor((notAfter - now) / DAY)
  return left < 0 ? `${day} (expired)` : `${day} (${left} days)`
}
