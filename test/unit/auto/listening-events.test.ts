import { once } from 'node:events'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { ListeningEvents } from '../../fixtures/auto.js'

/** A server that listens. `heard`: how often its program has heard so. */
async function listening() {
  const server = net.createServer()
  onTestFinished(() => void server.close())
  const counts = { heard: 0 }
  server.on('listening', () => counts.heard++)
  const listens = async () => {
    server.listen(0, '127.0.0.1')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  await listens()
  const closes = async () => {
    server.close()
    await once(server, 'close')
  }
  return { server, counts, listens, closes }
}

const turn = () => new Promise(resolve => setImmediate(resolve))

/** The process is replaced and serves again; the server has stopped to listen meanwhile, or not. */
type Replaced = 'stopped' | 'listened on'

const ROLLBACKS: readonly (readonly Replaced[])[] = [
  ['stopped'],
  ['listened on'],
  ['stopped', 'stopped'],
  ['stopped', 'listened on'],
  ['listened on', 'stopped'],
  ['listened on', 'listened on'],
]

it.each(ROLLBACKS.map(rollbacks => [rollbacks.join(', then '), rollbacks] as const))(
  'a program hears once that its server listens, and again when it listens anew (in rollbacks: %s)',
  async (_, rollbacks) => {
    const events = new ListeningEvents()
    const { server, counts, listens, closes } = await listening()
    for (const what of rollbacks) {
      events.mute([server])
      if (what === 'stopped') await closes()
      events.restore()
      if (what === 'stopped') await listens()
      await turn()
    }
    expect(counts.heard).toBe(1)
    await closes()
    await listens()
    expect(counts.heard).toBe(2)
    await closes()
  },
)
