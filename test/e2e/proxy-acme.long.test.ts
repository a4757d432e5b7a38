import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { blocksIn, pageText } from '../pages/blocks.js'
import { Edge } from '../processes/edge.js'
import { NameServer } from '../processes/name-server.js'
import { present } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const NAME = 'app.example.com'

/** A certificate authority that proves names over HTTP at this port, as those of the Internet do at port 80. */
async function authority(folder: string, edge: Edge, httpPort: number): Promise<string> {
  const names = await NameServer.startWithTcp({ [NAME]: { a: ['127.0.0.1'] } })
  const { cert: certificate, key: privateKey } = edge.issue('localhost', ['localhost'])
  const [port, management] = [await freePort(), await freePort()]
  const file = join(folder, 'pebble.json')
  const pebble = {
    listenAddress: `127.0.0.1:${port}`,
    managementListenAddress: `127.0.0.1:${management}`,
    ...{ certificate, privateKey, httpPort, tlsPort: 1 },
    profiles: { default: { description: 'short', validityPeriod: 86_400 } },
  }
  writeFileSync(file, JSON.stringify({ pebble }))
  const child = spawn('pebble', ['-config', file, '-dnsserver', names.address], {
    stdio: 'ignore',
    env: { ...process.env, PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '0' },
  })
  onTestFinished(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const listening = () =>
    new Promise<boolean>(resolve => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => resolve(true))
      socket.on('error', () => resolve(false)).on('close', () => resolve(false))
      onTestFinished(() => void socket.destroy())
    })
  await until('the authority listens', listening)
  return `https://localhost:${port}/dir`
}

/** Issuer and serial number of the certificate that a client sees; null if the handshake fails. */
function seen(port: number): Promise<{ issuer: string; serial: string } | null> {
  return new Promise(resolve => {
    const socket = connect({ port, host: '127.0.0.1', servername: NAME, rejectUnauthorized: false }, () => {
      const { issuer, serialNumber } = socket.getPeerCertificate()
      socket.destroy()
      resolve({ issuer: String(issuer.CN), serial: serialNumber })
    })
    socket.on('error', () => resolve(null))
  })
}

describe.skipIf(!has('certbot') || !has('pebble'))('certbot, as the page says,', () => {
  it('puts a certificate in force before it returns, and so does a renewal after an upgrade', async () => {
    const [config, commands] = blocksIn('docs/tls.md', pageText('docs/tls.md'))
      .map(({ text }) => text)
      .filter(text => text.includes('acme-challenge') || text.includes('certbot'))
    const [make, obtain] = commands!.split(/^\$ /m).slice(1)
    const [plain, secure, answers] = [await freePort(), await freePort(), await freePort()]
    const edge = await Edge.prepare({ upgrade: { probation: '0s' } })
    const folder = edge.sandbox.folder
    // The page's configuration, with this test's ports.
    const written = config!
      .replace('*:80"', `127.0.0.1:${plain}"`)
      .replace('*:443"', `127.0.0.1:${secure}"`)
      .replace(':8402"', `:${answers}"`)
      .replaceAll('/etc/edge', folder)
    const yaml = join(folder, 'acme.yaml')
    writeFileSync(
      yaml,
      `service: edge\ncontrol: ${edge.sandbox.control}\nupgrade: { probation: 0s }\n${written}`,
    )
    const start = async () => {
      const pid = await edge.sandbox.launch([...present.cli, 'proxy', '--config', yaml])
      await edge.serving(pid)
    }
    await promisify(execFile)('sh', ['-c', make!.replaceAll('/etc/edge', folder)])
    await start()
    expect(await seen(secure)).toMatchObject({ issuer: 'edge' })
    const directory = await authority(folder, edge, plain)
    const own = ['config', 'work', 'logs'].map(name => {
      mkdirSync(join(folder, name))
      return `--${name}-dir ${join(folder, name)}`
    })
    const order = async (more: string) => {
      const line = obtain!
        .trim()
        .replaceAll('\\\n', ' ')
        .replace('--http-01-port 8402', `--http-01-port ${answers}`)
        .replace('/run/edge/upgrade.sock', edge.sandbox.control)
        .replace('fd-broker certificates', `${present.cli.join(' ')} certificates`)
      const script = `${line} --server ${directory} --no-verify-ssl --agree-tos --register-unsafely-without-email -n ${own.join(' ')} ${more}`
      await promisify(execFile)('sh', ['-c', script])
    }
    await order('')
    const first = await seen(secure)
    expect(first?.issuer).toMatch(/Pebble/)
    await start()
    expect(await seen(secure)).toEqual(first)
    await order('--force-renewal')
    const second = await seen(secure)
    expect(second?.issuer).toMatch(/Pebble/)
    expect(second?.serial).not.toBe(first?.serial)
  })
})
