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

/** A certificate authority that proves names at one of these ports, as those of the Internet do at ports 80 and 443. */
async function authority(edge: Edge, { httpPort = 1, tlsPort = 1 }): Promise<string> {
  const { folder } = edge.sandbox
  const names = await NameServer.startWithTcp({ [NAME]: { a: ['127.0.0.1'] } })
  const { cert: certificate, key: privateKey } = edge.issue('localhost', ['localhost'])
  const [port, management] = [await freePort(), await freePort()]
  const file = join(folder, 'pebble.json')
  const pebble = {
    listenAddress: `127.0.0.1:${port}`,
    managementListenAddress: `127.0.0.1:${management}`,
    ...{ certificate, privateKey, httpPort, tlsPort },
    profiles: { default: { description: 'short', validityPeriod: 86_400 } },
  }
  writeFileSync(file, JSON.stringify({ pebble }))
  const child = spawn('pebble', ['-config', file, '-dnsserver', names.address], {
    stdio: 'ignore',
    env: { ...process.env, PEBBLE_VA_NOSLEEP: '1', PEBBLE_AUTHZREUSE: '0', PEBBLE_WFE_NONCEREJECT: '0' },
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

/** Starts the proxy with the configuration of the page and these texts in place of others. Returns what starts the next one. */
async function begin(config: string, places: Readonly<Record<string, string>>, make: string) {
  const edge = await Edge.prepare({ upgrade: { probation: '0s' } })
  const folder = edge.sandbox.folder
  const placed = (text: string) =>
    Object.entries({
      ...places,
      '/etc/edge': folder,
      '/run/edge/upgrade.sock': edge.sandbox.control,
      'fd-broker certificates': `${present.cli.join(' ')} certificates`,
      '\\\n': ' ',
    }).reduce((text, [from, to]) => text.replaceAll(from, to), text.trim())
  const yaml = join(folder, 'acme.yaml')
  const head = `service: edge\ncontrol: ${edge.sandbox.control}\nupgrade: { probation: 0s }\n`
  writeFileSync(yaml, head + placed(config))
  await promisify(execFile)('sh', ['-c', placed(make)])
  const next = async () => {
    const pid = await edge.sandbox.launch([...present.cli, 'proxy', '--config', yaml])
    await edge.serving(pid)
  }
  await next()
  return { edge, folder, next, placed }
}

const BLOCKS = blocksIn('docs/tls.md', pageText('docs/tls.md')).map(({ text }) => text)
const commandsOf = (name: string) =>
  BLOCKS.flatMap(text => text.split(/^\$ /m).filter(command => command.startsWith(name)))
const configWith = (part: string) => BLOCKS.find(text => text.includes(part))!

describe.skipIf(!has('certbot') || !has('pebble'))('certbot, as the page says,', () => {
  it('puts a certificate in force before it returns, and so does a renewal after an upgrade', async () => {
    const [make, obtain] = ['openssl req', 'certbot'].map(name => commandsOf(name)[0]!)
    const [plain, secure, answers] = [await freePort(), await freePort(), await freePort()]
    const places = {
      '*:80"': `127.0.0.1:${plain}"`,
      '*:443"': `127.0.0.1:${secure}"`,
      ':8402"': `:${answers}"`,
      '--http-01-port 8402': `--http-01-port ${answers}`,
    }
    const { edge, folder, next, placed } = await begin(configWith('acme-challenge'), places, make!)
    expect(await seen(secure)).toMatchObject({ issuer: 'edge' })
    const directory = await authority(edge, { httpPort: plain })
    const own = ['config', 'work', 'logs'].map(name => {
      mkdirSync(join(folder, name))
      return `--${name}-dir ${join(folder, name)}`
    })
    const order = async (more: string) => {
      const script = `${placed(obtain!)} --server ${directory} --no-verify-ssl --agree-tos --register-unsafely-without-email -n ${own.join(' ')} ${more}`
      await promisify(execFile)('sh', ['-c', script])
    }
    await order('')
    const first = await seen(secure)
    expect(first?.issuer).toMatch(/Pebble/)
    await next()
    expect(await seen(secure)).toEqual(first)
    await order('--force-renewal')
    const second = await seen(secure)
    expect(second?.issuer).toMatch(/Pebble/)
    expect(second?.serial).not.toBe(first?.serial)
  })
})

describe.skipIf(!has('lego') || !has('pebble'))('lego, as the page says,', () => {
  it('proves its name by the TLS port alone, and so does a renewal in the midst of an upgrade', async () => {
    const [make, obtain] = ['openssl req', 'lego'].map(name => commandsOf(name)[0]!)
    const [secure, answers] = [await freePort(), await freePort()]
    const store = { '/var/lib/lego': '/etc/edge/lego' }
    const places = { '*:443"': `127.0.0.1:${secure}"`, ':8403': `:${answers}`, ...store }
    const { edge, next, placed } = await begin(configWith('acme: lego'), places, make!)
    const directory = await authority(edge, { tlsPort: secure })
    const trusted = { ...process.env, LEGO_CA_CERTIFICATES: join(edge.sandbox.folder, 'localhost.crt') }
    const order = async (change: (command: string) => string) => {
      const command = change(placed(obtain!)).replace('--tls ', `--server ${directory} --tls `)
      await promisify(execFile)('sh', ['-c', command], { env: trusted })
    }
    await order(command => command)
    const first = await seen(secure)
    expect(first?.issuer).toMatch(/Pebble/)
    const renewal = (command: string) =>
      command.replace('run --run-hook', 'renew --days 90 --no-random-sleep --renew-hook')
    await Promise.all([order(renewal), next()])
    const second = await seen(secure)
    expect(second?.issuer).toMatch(/Pebble/)
    expect(second?.serial).not.toBe(first?.serial)
  })
})
