import { readFile } from 'node:fs/promises'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { type AddCertificate, CERTIFICATE_COMMANDS, type CertificateList } from '../proxy/tls/commands.js'
import type { CertificateAddition, ListedCertificate } from '../proxy/tls/live-certificates.js'
import {
  type AnswerFlags,
  commandService,
  IDEMPOTENT_RETRY_CODES,
  ofServiceWith,
  RETRY_CODES,
} from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { formatDuration, plain, print, table } from './output.js'

interface AddCertificateFlags extends AnswerFlags {
  cert: string
  key: string
  name?: string[]
  replace?: true
}

export function addCertificates(program: Command): void {
  const certificates = program
    .command('certificates')
    .description('show and change the TLS certificates of a running proxy; changes survive upgrades')
  addAskOptions(certificates.command('list'))
    .description('show all certificates, without keys')
    .examples('fd-broker certificates list --control /run/edge/upgrade.sock')
    .action(list)
  addAskOptions(certificates.command('add'))
    .description('add or replace a certificate for new connections')
    .requiredOption('--cert <file>', 'the certificate and its issuers, PEM')
    .requiredOption('--key <file>', 'private key of the certificate, PEM')
    .option('--name <name...>', 'host names to use instead of those in the certificate')
    .option('--replace', 'replace a certificate with the same first host name')
    .examples(
      'fd-broker certificates add --control /run/edge/upgrade.sock --cert a.crt --key a.key --replace',
    )
    .action(add)
  addAskOptions(certificates.command('remove'))
    .description('remove a certificate that was made at run time')
    .argument('<name>', 'first host name of the certificate')
    .examples('fd-broker certificates remove --control /run/edge/upgrade.sock app.example.com')
    .action(remove)
}

async function list(flags: AnswerFlags): Promise<void> {
  const reply = await ask<CertificateList>(flags, IDEMPOTENT_RETRY_CODES, CERTIFICATE_COMMANDS.list, {})
  print(flags.json, reply, () => certificatesText(reply, Date.now()))
}

async function add({ cert, key, name, replace, ...flags }: AddCertificateFlags): Promise<void> {
  const request: AddCertificate = {
    cert: await readPem(cert),
    key: await readPem(key),
    ...(name && { names: name }),
    ...(replace && { replace }),
  }
  const reply = await ask<CertificateAddition>(
    flags,
    IDEMPOTENT_RETRY_CODES,
    CERTIFICATE_COMMANDS.add,
    request,
  )
  print(flags.json, reply, additionText(reply))
}

async function remove(name: string, flags: AnswerFlags): Promise<void> {
  const reply = await ask<{ name: string }>(flags, RETRY_CODES, CERTIFICATE_COMMANDS.remove, { name })
  print(flags.json, reply, `${plain(reply.name)} removed\n`)
}

async function ask<T>(
  flags: AnswerFlags,
  again: ReadonlySet<FdbErrorCode>,
  command: string,
  request: object,
): Promise<T> {
  const reply = await ofServiceWith(
    'this service is not a proxy and has no certificates: name the proxy',
    commandService(flags, again, command, JSON.stringify(request)),
  )
  return JSON.parse(`${reply}`) as T
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, 'latin1')
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError('ERR_FDB_CERTIFICATE', `${file} cannot be read (${why})`, { cause: error })
  }
}

const DAY = 86_400_000
const SHOWN = 16

function certificatesText({ certificates, ticketKeys, handshakes }: CertificateList, now: number): string {
  const rows = certificates.map(certificate => [
    certificate.name,
    originText(certificate),
    expiryText(certificate, now),
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
    lines.push(`ticket keys: ${age} old, replaced after ${formatDuration(ticketKeys.rotateEvery / 1000)}`)
  }
  return `${lines.join('\n')}\n`
}

function additionText({ name, outcome, shadows, warning }: CertificateAddition): string {
  const lines = [outcome === 'unchanged' ? `${plain(name)} exists already` : `${plain(name)} ${outcome}`]
  if (shadows.length > 0) lines.push(`used instead of the file’s: ${shadows.map(plain).join(', ')}`)
  if (warning !== null) lines.push(`warning: clients will refuse it: ${plain(warning)}`)
  return `${lines.join('\n')}\n`
}

function originText({ origin, names, inForce, standard }: ListedCertificate): string {
  if (standard) return `${origin} (default)`
  return names.length > 0 && inForce.length === 0 ? `${origin} (not used)` : origin
}

function expiryText({ notAfter }: ListedCertificate, now: number): string {
  const day = new Date(notAfter).toISOString().slice(0, 10)
  const left = Math.floor((notAfter - now) / DAY)
  return left < 0 ? `${day} (expired)` : `${day} (${left} days)`
}
