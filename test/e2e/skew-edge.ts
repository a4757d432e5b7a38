import { Edge, upstream } from '../processes/edge.js'
import type { Version } from '../processes/release.js'

/** A proxy in front of two servers, in a configuration that every version understands. */
export async function behind(version: Version): Promise<Edge> {
  const [even, odd] = [await upstream('even'), await upstream('odd')]
  return Edge.start(
    {
      upstreams: {
        even: { servers: [even.url] },
        odd: { servers: [odd.url] },
        all: { servers: [even.url, odd.url] },
      },
      routes: [{ host: '*', upstream: 'all' }],
      drain: { timeout: '5m' },
      upgrade: { probation: '0s' },
    },
    version,
  )
}
