import { execFileSync } from 'node:child_process'
import type { Scene } from './scene.js'

/** A key and a certificate for localhost that nobody trusts. */
export function makeCertificate(scene: Scene): { key: string; cert: string } {
  const [key, cert] = [scene.file('tls.key'), scene.file('tls.crt')]
  const kind = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-noenc',
    '-days',
    '2',
    '-subj',
    '/CN=localhost',
  ]
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', cert], { stdio: 'ignore' })
  return { key, cert }
}
