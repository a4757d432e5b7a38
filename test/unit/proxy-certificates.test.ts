import { expect, it } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { Member } from '../../src/index.js'
import { CertificateTable } from '../../src/proxy/tls/certificate-table.js'
import { LiveCertificates } from '../../src/proxy/tls/live-certificates.js'
import { type CertificateMessage, certificateMessage } from '../../src/proxy/tls/section.js'

it('a stored certificate that cannot be read is left out of the list of all', () => {
  const material = {
    names: ['good.test'],
    chain: '',
    key: '',
    keyKind: 'ec',
    serial: '1',
    fingerprint: '2',
    notBefore: 0,
    notAfter: 1,
  }
  const good = certificateMessage(material, { created: 3, generation: 4 })
  class Damaged extends Map<string, CertificateMessage> {
    override get(key: string): CertificateMessage | undefined {
      if (key.includes('bad')) throw new Error(`${key} cannot be decoded`)
      return super.get(key)
    }
    onChange() {
      return () => {}
    }
  }
  const section = new Damaged(
    ['file:bad.test', 'runtime:bad.test', 'runtime:good.test'].map(key => [key, good]),
  )
  const member = { generation: 1, section: () => section } as unknown as Member
  const certificates = new LiveCertificates(member, new CertificateTable(), SILENT)
  expect(certificates.list().map(({ name }) => name)).toEqual(['good.test'])
  certificates.stop()
})
