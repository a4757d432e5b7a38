import { once } from 'node:events'
import https from 'node:https'
import type net from 'node:net'
import { afterEach, expect, it, onTestFinished } from 'vitest'
import type { Member } from '../../src/index.js'
import type { TicketKeys } from '../../src/tls/ticket-keys.js'
import { shareTicketKeys } from '../../src/tls/ticket-server.js'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { askTls } from '../processes/tls-client.js'

/** The section of the state with the keys, which the processes of a service share. */
class SharedKeys {
  readonly #stored = new Map<string, unknown>()
  readonly #listeners = new Set<(change: { key: string; op: string }) => void>()

  member(): Member {
    const section = {
      get: (name: string) => this.#stored.get(name),
      put: async (name: string, keys: unknown) => {
        this.#stored.set(name, keys)
        for (const told of this.#listeners) told({ key: name, op: 'put' })
      },
      update: async (name: string, change: (keys: unknown) => unknown) =>
        await section.put(name, change(this.#stored.get(name))),
      onChange: (listener: (change: { key: string; op: string }) => void) => {
        this.#listeners.add(listener)
        return () => this.#listeners.delete(listener)
      },
    }
    const is = { phase: 'serving', follows: null, generation: 1, section: () => section, once() {}, off() {} }
    return is as unknown as Member
  }
}

/** `renew`: the server sets its certificate again. `next`: another process serves from now on. */
type Step = 'session' | 'rotate' | 'renew' | 'next'
const STEP: fc.Arbitrary<Step> = fc.constantFrom('session', 'rotate', 'renew', 'next')

interface Process {
  readonly server: https.Server
  readonly port: number
  readonly keys: TicketKeys
}

const CREDENTIALS = { cert: CERTIFICATE, key: KEY }
const open: Process[] = []

function closeAll(): void {
  for (const { keys, server } of open.splice(0)) {
    keys.stop()
    server.closeAllConnections()
    server.close()
  }
}
afterEach(closeAll)

async function begin(shared: SharedKeys): Promise<Process> {
  const server = https.createServer(CREDENTIALS, (_request, response) => void response.end('here'))
  const keys = shareTicketKeys(shared.member(), server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const made = { server, port: (server.address() as net.AddressInfo).port, keys }
  open.push(made)
  return made
}

it('a TLS session is resumed until two rotations after it, by any process, whenever its certificate was set', async () => {
  onTestFinished(closeAll)
  const steps = fc.array(STEP, { minLength: 3, maxLength: 6 })
  const property = fc.asyncProperty(steps, fc.constantFrom('TLSv1.2', 'TLSv1.3'), async (all, version) => {
    const limits = { minVersion: version, maxVersion: version } as const
    const shared = new SharedKeys()
    const processes = [await begin(shared)]
    const sessions: { readonly session: Buffer; readonly rotations: number }[] = []
    let rotations = 0
    for (const step of ['session' as const, ...all]) {
      const last = processes.at(-1)!
      if (step === 'session') sessions.push({ session: (await askTls(last.port, limits)).session, rotations })
      else if (step === 'rotate') {
        await last.keys.rotate()
        rotations++
      } else if (step === 'renew') last.server.setSecureContext(CREDENTIALS)
      else processes.push(await begin(shared))
    }
    const expected = sessions.map(each => rotations - each.rotations < 2)
    for (const { port } of processes) {
      const asked = sessions.map(({ session }) => askTls(port, { ...limits, session }))
      expect((await Promise.all(asked)).map(({ reused }) => reused)).toEqual(expected)
    }
    closeAll()
  })
  const renewed: [Step[], 'TLSv1.3'] = [['rotate', 'renew', 'next', 'renew'], 'TLSv1.3']
  await fc.assert(property, { numRuns: perLane(3, 100), examples: [renewed] })
})
