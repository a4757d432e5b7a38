import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, createServer, type Server, type TLSSocket } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { acceptTickets } from '../../../src/tls/ticket-server.js'
import { issue } from '../../processes/certificate.js'

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const
const KEYS = { current: Buffer.alloc(48, 7), previous: null }

/** An authority, one client's certificate by it, and its lists before and after that client was revoked. */
function authority() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-revoked-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const at = (name: string) => join(folder, name)
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'ignore' })
  const config = at('ca.conf')
  writeFileSync(
    config,
    [
      '[ca]\ndefault_ca = own\n[own]',
      `database = ${at('index')}\nserial = ${at('serial')}\nnew_certs_dir = ${folder}`,
      'default_md = sha256\ndefault_days = 2\ndefault_crl_days = 2\npolicy = any\n[any]\ncommonName = supplied\n',
    ].join('\n'),
  )
  writeFileSync(at('index'), '')
  writeFileSync(at('serial'), '01\n')
  const ca = issue(folder, 'ca')
  const by = ['-config', config, '-keyfile', ca.key, '-cert', ca.cert] as const
  const request = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-subj', '/CN=client']
  openssl('req', ...request, '-keyout', at('client.key'), '-out', at('client.csr'))
  openssl('ca', ...by, '-batch', '-notext', '-in', at('client.csr'), '-out', at('client.crt'))
  const list = (name: string) => {
    openssl('ca', ...by, '-gencrl', '-out', at(name))
    return readFileSync(at(name))
  }
  const before = list('before.crl')
  openssl('ca', ...by, '-revoke', at('client.crt'))
  const after = list('after.crl')
  const read = (name: string) => readFileSync(at(name))
  const own = issue(folder, 'localhost')
  return {
    server: { cert: readFileSync(own.cert), key: readFileSync(own.key), ca: readFileSync(ca.cert) },
    client: { cert: read('client.crt'), key: read('client.key') },
    before,
    after,
  }
}

/** As the next version's: the same keys, the same name. */
async function serve(options: object): Promise<{ server: Server; port: number }> {
  const server = createServer({ requestCert: true, rejectUnauthorized: true, ...options }, socket =>
    socket.end(socket.isSessionReused() ? 'resumed' : 'greeted'),
  )
  server.on('tlsClientError', () => {})
  acceptTickets(server, 'shop', KEYS)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { server, port: (server.address() as { port: number }).port }
}

/** The server's answer, or 'refused'; and the last session. */
function ask(port: number, options: object): Promise<{ said: string; session: Buffer | undefined }> {
  return new Promise(resolve => {
    let said = ''
    let session: Buffer | undefined
    const socket: TLSSocket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
    socket.on('session', given => (session = given))
    socket.on('data', data => (said += data))
    socket.on('error', () => {})
    socket.on('close', () => resolve({ said: said === '' ? 'refused' : said, session }))
  })
}

describe.each(VERSIONS)('a client whose certificate is revoked after it made a %s session', version => {
  it('does not get into the next version with that session', async () => {
    const { server, client, before, after } = authority()
    const limits = { ...client, minVersion: version, maxVersion: version }
    const first = await serve({ ...server, crl: before })
    const { said, session } = await ask(first.port, limits)
    expect([said, session === undefined]).toEqual(['greeted', false])
    const same = await serve({ ...server, crl: before })
    expect((await ask(same.port, { ...limits, session })).said).toBe('resumed')
    const next = await serve({ ...server, crl: after })
    expect((await ask(next.port, { ...limits, session })).said).toBe('refused')
  })

  it('does not get in with it once the server was given the new list', async () => {
    const { server, client, before, after } = authority()
    const limits = { ...client, minVersion: version, maxVersion: version }
    const serving = await serve({ ...server, crl: before })
    const { session } = await ask(serving.port, limits)
    expect((await ask(serving.port, { ...limits, session })).said).toBe('resumed')
    serving.server.setSecureContext({ ...server, crl: after })
    expect((await ask(serving.port, { ...limits, session })).said).toBe('refused')
  })
})
