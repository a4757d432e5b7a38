import { expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Clients } from '../processes/workers.js'

/** Answers each client, and calls shutdown(2) on the shared listener when it is told to end, as WEBrick does. */
const SHUTS_DOWN = `
import os, select, signal, socket, threading
given = socket.socket(fileno=3)
def end(*_):
    given.shutdown(socket.SHUT_RDWR)
    threading.Timer(0.3, os._exit, [0]).start()
signal.signal(signal.SIGTERM, end)
def answer(client):
    client.recv(4096)
    body = str(os.getpid()).encode()
    client.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nX-Pid: ' + body + b'\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
    client.close()
while True:
    select.select([given], [], [])
    try: client, _ = given.accept()
    except OSError: continue
    client.setblocking(True)
    threading.Thread(target=answer, args=[client], daemon=True).start()
`

it.runIf(NIGHTLY)('fd-broker run serves on when a program shuts its listener down as it ends', async () => {
  const run = await Supervised.start(['--ready', 'delay:300ms'], ['python3', '-c', SHUTS_DOWN])
  const clients = new Clients(run.url, 2)
  onTestFinished(() => clients.stop())
  for (let generation = 2; generation <= 3; generation++) {
    const { code, stdout } = await run.upgrade('--json')
    expect(code).toBe(0)
    await until('the next version answers', () => clients.answered.has(String(JSON.parse(stdout).pid)))
    await until('the version before has ended', async () => (await run.status()).draining.length === 0)
    // The shutdown itself resets what waits in the queue, and refuses clients for the moment until this process listens again.
    const before = clients.failures.length
    await clients.more(20)
    expect(clients.failures.slice(before)).toEqual([])
  }
  await clients.stop()
  const shut = run.lines.filter(line => /shut it down for all/.test(line.msg))
  expect(shut).toMatchObject([{ level: 40, listener: 'web' }])
})
