import { createServer } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { closeAll } from '../../src/kernel/index.js'
import { parseListenerSpec } from '../../src/listeners/index.js'
import { claimForLife, type WantedDescriptor } from '../../src/run/claimed-descriptors.js'
import { daemonClient } from '../processes/daemon-client.js'
import { openFds } from '../processes/descriptors.js'
import { until } from '../processes/until.js'

const ANYWHERE = 'tcp://127.0.0.1:0'

function wanted(name: string, text: string | null = ANYWHERE): WantedDescriptor {
  return { name, spec: text === null ? null : parseListenerSpec(text) }
}

/** A daemon in this process that holds the listeners `one` and `two`, and this process's claims. */
async function claiming() {
  const client = await daemonClient()
  const claim = (all: readonly WantedDescriptor[]) =>
    claimForLife(client, all, { service: 'shop', exclusive: false, nonBlocking: false, timeoutMs: 5_000 })
  closeAll((await claim([wanted('one'), wanted('two')])).map(({ fd }) => fd))
  return claim
}

/** An address that another program has. */
async function occupied(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await new Promise(resolve => server.once('listening', resolve))
  return `tcp://127.0.0.1:${(server.address() as { port: number }).port}`
}

describe('claimed descriptors all close', () => {
  it.each<[string, () => Promise<WantedDescriptor>, string]>([
    ['is held for another address', async () => wanted('two', 'unix:@fdb-claims'), 'ERR_FDB_FD_TAKEN'],
    ['is unknown', async () => wanted('three', null), 'ERR_FDB_FD_UNKNOWN'],
    ['cannot be bound', async () => wanted('three', await occupied()), 'ERR_FDB_ADDRESS_IN_USE'],
  ])('if a later one %s', async (_why, last, code) => {
    const claim = await claiming()
    const bad = await last()
    const before = openFds(process.pid)
    await expect(claim([wanted('one'), wanted('two'), bad])).rejects.toMatchObject({ code })
    await until(
      'no more are open',
      () => openFds(process.pid).join() === before.join(),
      5_000,
      () => openFds(process.pid),
    )
  })
})
