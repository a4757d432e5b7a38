import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { AppConfig } from '../processes/app.js'
import { makeCertificate } from '../processes/certificate.js'
import { serveByCommand } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { askTls } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

const VERSIONS = perLane<('TLSv1.2' | 'TLSv1.3')[]>(['TLSv1.3'], ['TLSv1.2', 'TLSv1.3'])
const UPGRADE = { probation: 0, heartbeat: 50 }

async function shop(config: AppConfig = {}) {
  const port = await freePort()
  const scene = Scene.open({
    upgrade: UPGRADE,
    listeners: [{ name: 'tls', spec: `tcp://127.0.0.1:${port}`, server: 'https' }],
    tickets: {},
    ...config,
  })
  Object.assign(scene.defaults, makeCertificate(scene))
  /** The next version serves, and the one before accepts no more. */
  const next = async (config?: AppConfig) => {
    const before = scene.apps.at(-1)
    const app = await scene.serve(config)
    await before?.says('retiring')
    return app
  }
  return { scene, port, next }
}

const generationIn = (text: string) => text.slice(text.indexOf('\r\n\r\n') + 4).split(',')[0]

describe.each(VERSIONS)('with shared ticket keys a %s session', version => {
  const limits = { minVersion: version, maxVersion: version }

  it('continues from the first process to the fourth', async () => {
    const { scene, port, next } = await shop()
    await next()
    const first = await askTls(port, limits)
    expect(first).toMatchObject({ reused: false })
    expect(await askTls(port, { ...limits, session: first.session })).toMatchObject({ reused: true })
    for (let n = 0; n < 3; n++) await next()
    const resumed = await askTls(port, { ...limits, session: first.session })
    expect({ reused: resumed.reused, generation: generationIn(resumed.text) }).toEqual({
      reused: true,
      generation: '4',
    })
    const entry = (await scene.status()).sections.find(({ name }) => name === 'ticketKeys')
    expect(entry).toMatchObject({ entries: 1, version: 1 })
  })

  it.runIf(NIGHTLY)('continues in a server that has set its certificate again', async () => {
    const { port, next } = await shop()
    await next()
    const { session } = await askTls(port, limits)
    await next({ renewed: true })
    expect(await askTls(port, { ...limits, session })).toMatchObject({ reused: true })
  })

  it.runIf(NIGHTLY)('continues where the server has a name of its own for its sessions', async () => {
    const { port, next } = await shop({ tickets: {} })
    await next({ tls: { sessionIdContext: 'shop' } })
    const { session } = await askTls(port, limits)
    await next({ renewed: true, tls: { sessionIdContext: 'shop' } })
    expect((await askTls(port, { ...limits, session })).reused).toBe(true)
    await next()
    expect((await askTls(port, { ...limits, session })).reused).toBe(false)
  })

  it.runIf(NIGHTLY)(
    'ends at a version that asks for client certificates, and at servers of another name',
    async () => {
      const { port, next } = await shop()
      await next()
      const { session } = await askTls(port, limits)
      await next({ tickets: { name: 'other' } })
      expect((await askTls(port, { ...limits, session })).reused).toBe(false)
      await next({ tls: { requestCert: true, rejectUnauthorized: true } })
      await expect(askTls(port, { ...limits, session })).rejects.toThrow()
      await next()
      expect((await askTls(port, { ...limits, session })).reused).toBe(true)
    },
  )

  it('continues with the previous keys after a rotation, and needs a full handshake after two, in this and in later processes', async () => {
    const { port, next } = await shop()
    const first = await next()
    const { session } = await askTls(port, limits)
    await first.order('rotate')
    const renewed = await askTls(port, { ...limits, session })
    expect(renewed.reused).toBe(true)
    await first.order('rotate')
    expect((await askTls(port, { ...limits, session })).reused).toBe(false)
    expect((await askTls(port, { ...limits, session: renewed.session })).reused).toBe(true)
    const fresh = await askTls(port, limits)
    const second = await next()
    expect((await askTls(port, { ...limits, session })).reused).toBe(false)
    expect((await askTls(port, { ...limits, session: fresh.session })).reused).toBe(true)
    await second.order('rotate')
    expect((await askTls(port, { ...limits, session: fresh.session })).reused).toBe(true)
    await second.order('rotate')
    expect((await askTls(port, { ...limits, session: fresh.session })).reused).toBe(false)
    // Also by one that drains: its change is made by the one that serves.
    const again = await askTls(port, limits)
    for (let i = 0; i < 2; i++) await first.order('rotate')
    expect((await askTls(port, { ...limits, session: again.session })).reused).toBe(false)
  })
})

describe('ticket keys', () => {
  it.runIf(NIGHTLY)('outlive a member of a daemon that was killed', async () => {
    const { scene, port } = await shop({ hosting: 'daemon' })
    await serveByCommand(scene)
    const first = await scene.serve()
    const { session, socket } = await askTls(port)
    socket.destroy()
    await first.kill()
    await scene.serve()
    expect((await askTls(port, { session })).reused).toBe(true)
  })

  it.runIf(NIGHTLY)('rotate in time in the serving process, also when it did not make them', async () => {
    const { port, next } = await shop()
    await next()
    const { session } = await askTls(port)
    await next({ tickets: { rotateEvery: 500 } })
    await until('they are rotated', async () => !(await askTls(port, { session })).reused, 20_000)
  })

  it.runIf(NIGHTLY)(
    'come from the next version where the previous one shared none, and become state when it serves',
    async () => {
      const { scene, port, next } = await shop()
      await next({ tickets: undefined as never })
      expect((await scene.status()).sections.map(({ name }) => name)).not.toContain('ticketKeys')
      await next()
      const { session } = await askTls(port)
      await next()
      expect((await askTls(port, { session })).reused).toBe(true)
    },
  )

  it.runIf(NIGHTLY)('stay the same when an upgrade failed', async () => {
    const { scene, port, next } = await shop()
    await next()
    const { session } = await askTls(port)
    await (await scene.start({ check: 'throw' })).failure()
    expect((await askTls(port, { session })).reused).toBe(true)
    await scene.serve()
    expect((await askTls(port, { session })).reused).toBe(true)
  })
})
