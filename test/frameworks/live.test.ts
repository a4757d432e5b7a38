import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import type { AutoProgram } from '../e2e/auto-program.js'
import { processesLeft } from '../e2e/auto-record.js'
import { until } from '../processes/until.js'
import { installed } from './installed.js'
import { eventSource, type Seen, socketIoClient, webSocketClient } from './live-clients.js'
import { CUT, unexpectedLines, unmodified } from './unmodified.js'

const CLIENTS = 6
/** A connection that does not move stays so long with the version that accepted it. */
const DRAIN = { FD_BROKER_DRAIN: '2s' }
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** Five upgrades under load of HTTP/1, while the clients talk; then one process is alive, with all clients. */
async function upgradedWith(program: AutoProgram, open: () => Seen | Promise<Seen>): Promise<Seen[]> {
  await program.serve()
  const clients = await Promise.all(Array.from({ length: CLIENTS }, open))
  await until('each client talks', () => clients.every(({ messages }) => messages > 3))
  await program.upgradedUnderLoad('import', { upgrades: 5 })
  const last = await program.serves(6)
  await processesLeft(program, 1)
  const before = clients.map(({ messages }) => messages)
  await until(
    'each client talks to the last version',
    () => clients.every(({ messages, pids }, n) => messages > before[n]! + 3 && pids.has(last)),
    10_000,
    () => clients,
  )
  return clients
}

/** Each connection ended in one of these ways, at most once in each version. */
function connectedAgain(clients: readonly Seen[], ...ways: string[]): void {
  expect(clients.flatMap(({ failures }) => failures)).toEqual([])
  expect(ways).toEqual(expect.arrayContaining(clients.flatMap(({ ends }) => ends)))
  for (const { ends } of clients) expect(ends.length).toBeGreaterThan(0)
  for (const { ends } of clients) expect(ends.length).toBeLessThanOrEqual(5)
}

describe('under fd-broker/auto clients of an application that is upgraded five times connect again when the drain ends, and see no other error:', () => {
  it('WebSockets of fastify.mjs', async () => {
    const program = await unmodified('fastify.mjs', { modules, env: DRAIN })
    const clients = await upgradedWith(program, () => webSocketClient(`${program.url}/talk`))
    connectedAgain(clients, '1006')
    expect(unexpectedLines(program, CUT)).toEqual([])
  })

  it('an event stream of sse.mjs', async () => {
    const program = await unmodified('sse.mjs', { modules, env: DRAIN })
    const clients = await upgradedWith(program, () => eventSource(`${program.url}/events`))
    connectedAgain(clients, 'whole')
    expect(unexpectedLines(program, CUT)).toEqual([])
  })

  it('socket.io, over WebSockets', async () => {
    const program = await unmodified('socketio.mjs', { modules, env: DRAIN })
    const clients = await upgradedWith(program, () => socketIoClient(program.url, modules, ['websocket']))
    connectedAgain(clients, 'transport close')
    expect(unexpectedLines(program, CUT)).toEqual([])
  })

  it('socket.io, as it is by default: first by long polling', async () => {
    const program = await unmodified('socketio.mjs', { modules, env: DRAIN })
    const clients = await upgradedWith(program, () => socketIoClient(program.url, modules, undefined))
    connectedAgain(clients, 'transport close')
    expect(unexpectedLines(program, CUT)).toEqual([])
  })

  it.each(['4.6', '4.7'])(
    'socket.io %s, whose sessions fd-broker cannot move, which it says',
    async release => {
      const recovering = (text: string) =>
        text
          .replace("from 'socket.io'", `from 'socket.io-${release}'`)
          .replace('\n\n', "\nimport { recoverSockets } from 'fd-broker/socket.io'\n\n")
          .replace('(server)\n', '(server)\nrecoverSockets(io)\n')
      const program = await unmodified('socketio.mjs', { modules, env: DRAIN }, recovering)
      const clients = await upgradedWith(program, () => socketIoClient(program.url, modules, undefined))
      // A poll of a session that stays may reach the next version, which does not know it.
      connectedAgain(clients, 'transport close', 'transport error')
      expect(program.output).toContain('sessions of socket.io do not move, and their clients reconnect')
      expect(unexpectedLines(program, CUT, / do not move, and /)).toEqual([])
    },
  )
})
