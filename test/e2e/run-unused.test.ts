import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Supervised } from '../processes/supervised.js'

const WARNING = 'the program does not serve a listener that it was given'
const NODE = [process.execPath, '-e']

async function started(command: readonly string[]): Promise<Supervised> {
  return await Supervised.start(['--ready', 'delay:50ms'], command)
}

async function connected(run: Supervised): Promise<void> {
  const client = connect(run.port, '127.0.0.1')
  onTestFinished(() => void client.destroy())
  await once(client, 'connect').catch(cause => {
    throw new Error(`${cause.message}; run wrote ${JSON.stringify(run.lines.slice(-8))}`, { cause })
  })
  client.on('error', () => {})
}

function warnings(run: Supervised) {
  return run.lines.filter(line => line.msg.startsWith(WARNING))
}

const SERVER = "require('node:net').createServer(() => {}).listen({ fd: 3 })"
const LATE = "setTimeout(() => require('node:net').createServer(() => {}).listen({ fd: 3 }), 12_000)"
/** Has a listener of its own, and serves one connection at a time. */
const BUSY = `
import socket, time
own = socket.create_server(('127.0.0.1', 0))
given = socket.socket(fileno=3)
connection = given.accept()
time.sleep(1000)`

describe('fd-broker run', () => {
  it.runIf(NIGHTLY)(
    'warns once of a program that ignores its listener, and of none that accepts late, in a child, or one at a time',
    async () => {
      const [bound, closed, ...good] = await Promise.all([
        started([...NODE, "require('node:net').createServer(() => {}).listen(0)"]),
        started(['bash', '-c', 'exec 3>&-; exec sleep 1000']),
        started([...NODE, LATE]),
        started(['sh', '-c', `${process.execPath} -e "${SERVER}" & wait`]),
        started(['python3', '-c', BUSY]),
        started([...NODE, SERVER]),
      ])
      for (const run of [bound, ...good]) for (let i = 0; i < 2; i++) await connected(run)
      await new Promise(resolve => setTimeout(resolve, 17_000))
      const fields = { level: 40, version: 1, listener: 'web' }
      expect(warnings(closed)).toEqual([
        expect.objectContaining({ ...fields, why: 'no process has the socket open' }),
      ])
      expect(warnings(bound)).toEqual([
        expect.objectContaining({
          ...fields,
          child: (await bound.status()).pid,
          address: `tcp://127.0.0.1:${bound.port}`,
          why: expect.stringMatching(
            /^clients have waited for 5 s to be accepted, and the program listens on port \d+$/,
          ),
        }),
      ])
      expect(good.flatMap(warnings)).toEqual([])
      expect(good.flatMap(run => run.lines.filter(line => line.msg === 'a version has ended'))).toEqual([])
    },
  )
})
