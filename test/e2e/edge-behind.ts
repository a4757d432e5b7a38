import { type Config, Edge, upstream } from '../processes/edge.js'
import type { Version } from '../processes/release.js'

/** A proxy in front of two servers. Without more in its configuration every version understands it. */
export async function behind(config: Config = {}, version?: Version): Promise<Edge> {
  const [even, odd] = [await upstream('even'), await upstream('odd')]
  // A number, as in a caller: versions have other defaults, and a difference would be a change.
  const keepAlive = { connections: 128 }
  return Edge.start(
    {
      upstreams: {
        even: { servers: [even.url], keepAlive },
        odd: { servers: [odd.url], keepAlive },
        all: { servers: [even.url, odd.url], keepAlive },
      },
      routes: [{ host: '*', upstream: 'all' }],
      drain: { timeout: '5m' },
      upgrade: { probation: '0s' },
      ...config,
    },
    version,
  )
}
