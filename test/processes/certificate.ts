import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Paths of two PEM files. */
export interface Certificate {
  readonly cert: string
  readonly key: string
}

/** An untrusted key and certificate for `name`, and for these DNS names; in files of that name. */
export function issue(folder: string, name: string, dns: readonly string[] = [], kind = 'ec'): Certificate {
  const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)]
  const keyKind = kind === 'ec' ? ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'] : [kind]
  const names =
    dns.length === 0 ? [] : ['-addext', `subjectAltName=${dns.map(one => `DNS:${one}`).join(',')}`]
  const rest = ['-noenc', '-days', '2', '-subj', `/CN=${name}`, ...names, '-keyout', key, '-out', cert]
  execFileSync('openssl', ['req', '-x509', '-newkey', ...keyKind, ...rest], { stdio: 'ignore' })
  return { key, cert }
}

/** A certificate of a client, issued by one of {@link issue}; in files of that name. */
export function issueBy(ca: Certificate, folder: string, name: string): Certificate {
  const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)]
  const names = ['-addext', `subjectAltName=DNS:${name},URI:spiffe://example/${name}`]
  const by = ['-CA', ca.cert, '-CAkey', ca.key, '-addext', 'basicConstraints=critical,CA:FALSE']
  const rest = ['-noenc', '-days', '2', '-subj', `/O=Example/CN=${name}`, '-keyout', key, '-out', cert]
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
  execFileSync('openssl', ['req', '-x509', ...kind, ...by, ...names, ...rest], { stdio: 'ignore' })
  return { key, cert }
}

/** The list of the certificates that the CA has revoked, in the file `name`; in force between these times (`20300101000000Z`). */
export function revoke(
  ca: Certificate,
  folder: string,
  name: string,
  revoked: readonly Certificate[],
  { from = '20200101000000Z', until = '20990101000000Z' } = {},
): string {
  const [file, index, config] = ['', '.index', '.conf'].map(extension => join(folder, name + extension))
  const serials = revoked.map(({ cert }) => new X509Certificate(readFileSync(cert)).serialNumber)
  const lines = serials.map(serial => `R\t491231000000Z\t250101000000Z\t${serial}\tunknown\t/CN=${serial}\n`)
  writeFileSync(index!, lines.join(''))
  writeFileSync(config!, `[ca]\ndefault_ca = all\n[all]\ndatabase = ${index}\ndefault_md = sha256\n`)
  const times = ['-crl_lastupdate', from, '-crl_nextupdate', until]
  const by = ['-config', config!, '-keyfile', ca.key, '-cert', ca.cert]
  execFileSync('openssl', ['ca', '-gencrl', ...by, ...times, '-out', file!], { stdio: 'ignore' })
  return file!
}

/** One for localhost. */
export function makeCertificate(scene: { readonly folder: string }): Certificate {
  return issue(scene.folder, 'localhost')
}
