import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { LastServer, servingIn } from '../../../src/operator/serving.js'

/** Listens and never answers. After `most` connections it stops listening. */
async function silent(most: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-serving-'))
  const control = join(folder, 'shop.sock')
  let connections = 0
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.resume()
    if (++connections === most) server.close()
  })
  server.listen(control)
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return control
}

describe('the question which process serves', () => {
  it('repeats while a process listens and does not answer, because it may serve', async () => {
    using last = new LastServer(await silent(10), { timeout: 150 })
    expect(await last.find()).toBeNull()
    expect(last.present).toBeNull()
  })

  it('ends without an answer while a known process lives', async () => {
    using last = new LastServer(await silent(2), { known: process.pid, timeout: 50 })
    expect(await last.find()).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(last.present?.pid).toBe(process.pid)
  })

  it('means the process that answers if a daemon has no service to be named', () => {
    const worker = (phase: 'serving' | 'starting') => ({ service: 'shop', phase })
    const shop = { service: 'shop', pid: 8, role: 'serving' }
    const of = (...phases: ('serving' | 'starting')[]) =>
      servingIn({ hosting: 'daemon', pid: 7, services: [shop], workers: { all: phases.map(worker) } }, '')
    expect(servingIn({ hosting: 'daemon', pid: 7, services: [shop] }, '')).toMatchObject({
      pid: 7,
      role: 'serving',
    })
    expect(of('serving', 'serving')).toMatchObject({ pid: 7, role: 'serving' })
    expect(of('serving', 'starting')).toMatchObject({ pid: 7, role: 'ready' })
    expect(servingIn({ services: [shop] }, 'shop')).toBe(shop)
    expect(servingIn({ services: [shop] }, 'other')).toBeUndefined()
  })
})
