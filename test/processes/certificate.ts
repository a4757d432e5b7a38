import { execFileSync } from 'node:child_process'
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

/** One for localhost. */
export function makeCertificate(scene: { readonly folder: string }): Certificate {
  return issue(scene.folder, 'localhost')
}
