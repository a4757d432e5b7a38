import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { connect } from 'node:tls'
import { expect, it } from 'vitest'
import { get } from '../connections-support/http-client.js'
import { makeCertificate } from '../processes/certificate.js'
import { freePort, Scene } from '../processes/scene.js'

it('connections over TLS outlive the drain of the others, are told to go, and let their process end', async () => {
  const [secure, plain] = [await freePort(), await freePort()]
  const scene = Scene.open({
    upgrade: { probation: 0, heartbeat: 50 },
    drain: { timeout: 300, tlsTimeout: 60_000 },
    listeners: [
      { name: 'tls', spec: `tcp://127.0.0.1:${secure}`, server: 'https' },
      { name: 'echo', spec: `tcp://127.0.0.1:${plain}`, server: 'net' },
    ],
  })
  Object.assign(scene.defaults, makeCertificate(scene))
  const first = await scene.serve()
  const over = connect({ host: '127.0.0.1', port: secure, rejectUnauthorized: false }).setEncoding('latin1')
  await once(over, 'secureConnect')
  const bare = connectTcp(plain, '127.0.0.1').resume()
  const cut = once(bare, 'close')
  await once(bare, 'connect')
  await scene.statusWhere('both are there', ({ connections }) => connections === 2)
  await scene.serve()
  await cut
  expect(first.ended).toBe(false)
  over.write(get('/whoami'))
  let text = ''
  over.on('data', chunk => {
    text += chunk
  })
  await once(over, 'end')
  expect(text).toMatch(/^connection: close$/im)
  expect(text).toMatch(new RegExp(`^1,${first.pid}$`, 'm'))
  await first.end()
  over.destroy()
})
