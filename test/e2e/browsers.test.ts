import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { ListenerConfig } from '../processes/app.js'
import { BrowserClient } from '../processes/browser-client.js'
import { makeCertificate } from '../processes/certificate.js'
import { Edge } from '../processes/edge.js'
import { freePort, Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

/** On a machine that has much else to do. A browser starts in a second and a half. */
const BUSY_MS = 120_000
const UPGRADES = perLane(2, 20)

async function listening(): Promise<{ sockets: number; streams: number; listeners: ListenerConfig[] }> {
  const [sockets, streams] = [await freePort(), await freePort()]
  const listeners = [
    { name: 'ws', spec: `tcp://127.0.0.1:${sockets}`, server: 'ws' as const },
    { name: 'streams', spec: `tcp://127.0.0.1:${streams}`, server: 'streams' as const },
  ]
  return { sockets, streams, listeners }
}

/** Waits until the page has got more of each kind, and finds no fault. */
async function goesOn(client: BrowserClient): Promise<void> {
  const before = await client.seen()
  const kinds = ['answers', 'ticks', 'events'] as const
  const after = await until(
    'the page gets more of each kind',
    async () => {
      const seen = await client.seen()
      return seen.faults.length > 0 || kinds.every(kind => seen[kind] > before[kind] + 2) ? seen : null
    },
    BUSY_MS,
    () => before,
  )
  expect(after.faults).toEqual([])
}

describe.skipIf(!has('chromium'))(
  'a page in Chromium keeps its WebSocket and its EventSource over TLS',
  () => {
    it.runIf(NIGHTLY)('through upgrades of Node servers', { timeout: 4 * BUSY_MS }, async () => {
      const { sockets, streams, listeners } = await listening()
      const upgrade = { probation: 0, heartbeat: 50, ready: BUSY_MS }
      const scene = Scene.open({ upgrade, listeners, moveTls: true })
      Object.assign(scene.defaults, makeCertificate(scene))
      let app = await scene.serve()
      const client = await BrowserClient.open({ sockets, streams }, BUSY_MS)
      await goesOn(client)
      for (let round = 0; round < UPGRADES; round++) {
        const next = await scene.serve()
        await app.end(BUSY_MS)
        app = next
        await goesOn(client)
        expect((await client.seen()).pid).toBe(app.pid)
      }
      expect((await app.status()).moves).toMatchObject({ lost: 0, refused: {} })
    })

    it.runIf(NIGHTLY)('through upgrades of the proxy', { timeout: 4 * BUSY_MS }, async () => {
      const { sockets, streams, listeners } = await listening()
      await Scene.open({ listeners }).serve()
      const edge = await Edge.prepare({
        upstreams: {
          ws: { servers: [`http://127.0.0.1:${sockets}`] },
          streams: { servers: [`http://127.0.0.1:${streams}`] },
        },
        routes: [
          { host: '*', upstream: 'streams' },
          { host: '*', path: '/ws', upstream: 'ws' },
        ],
        upgrade: { probation: '0s', ready: '2m' },
      })
      edge.write(edge.secured([edge.issue('localhost')], { move: 'on' }))
      let pid = await edge.next()
      const client = await BrowserClient.open({ sockets: edge.port, streams: edge.port }, BUSY_MS)
      await goesOn(client)
      for (let round = 0; round < UPGRADES; round++) {
        const before = pid
        pid = await edge.next()
        await edge.ended(before, BUSY_MS)
        await goesOn(client)
      }
      expect((await edge.status()).moves).toMatchObject({ lost: 0, refused: {} })
    })
  },
)
