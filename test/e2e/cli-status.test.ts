import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Sandbox } from './cli-processes.js'

describe('fd-broker status', () => {
  it('tells generation, listeners, connections, sections and state of a running server', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.shop(50)

    const report = await sandbox.status()
    expect(report).toMatchObject({
      service: 'shop',
      control: sandbox.control,
      hosting: 'embedded',
      pid,
      generation: 1,
      role: 'serving',
      phase: 'idle',
      lastFailure: null,
      blockedBy: [],
      draining: [],
    })
    expect(report.listeners).toEqual([
      expect.objectContaining({
        name: 'web',
        address: expect.stringMatching(/^tcp:\/\/127\.0\.0\.1:\d+$/),
        accepting: true,
      }),
    ])
    expect(report.sections).toEqual([expect.objectContaining({ name: 'routes', version: 1, entries: 50 })])

    const { code, stdout, stderr } = await sandbox.run('status', '--control', sandbox.control)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^service +shop$/m)
    expect(stdout).toMatch(/^generation +1$/m)
    expect(stdout).toMatch(new RegExp(`^pid +${pid}$`, 'm'))
    expect(stdout).toMatch(/^role +serving$/m)
    expect(stdout).toMatch(/^uptime +service \d+\.\ds, process \d+\.\ds$/m)
    expect(stdout).toMatch(/^ {2}web +tcp:\/\/127\.0\.0\.1:\d+ \(http\) +yes +\d+ +-$/m)
    expect(stdout).toMatch(/^ {2}routes +1 +50 +[0-9a-f]{12}$/m)
    expect(stdout).toMatch(/^state +50 entries, .* in 1 segment, sequence \d+, digest [0-9a-f]{12}$/m)
    expect(stdout).not.toContain('\u001b')
  })

  it('says that nothing listens, and what to do', async () => {
    const sandbox = Sandbox.open()
    const { code, stdout, stderr } = await sandbox.run('status', '--control', sandbox.control)
    expect({ code, stdout }).toEqual({ code: 3, stdout: '' })
    expect(stderr).toMatch(/^ERR_FDB_NO_HOLDER: .*Start one, or check the path\n$/)
  })

  it('names a path over the limit and a file that is no socket', async () => {
    const sandbox = Sandbox.open()
    const long = await sandbox.run('status', '--control', join(sandbox.folder, 'x'.repeat(120)))
    expect(long.code).toBe(2)
    expect(long.stderr).toMatch(/^ERR_FDB_PATH_TOO_LONG: .* 106/)

    const file = join(sandbox.folder, 'file')
    writeFileSync(file, '')
    const none = await sandbox.run('status', '--control', file)
    expect(none.code).toBe(3)
    expect(none.stderr).toMatch(/^ERR_FDB_/)
  })

  it('recognises a socket of another program', async () => {
    const sandbox = Sandbox.open()
    await listen(sandbox.control, socket => {
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')
    })
    const { code, stderr } = await sandbox.run('status', '--control', sandbox.control)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_NOT_FD_BROKER: /)
  })

  it('gives up on a silent peer at the deadline, and names it', async () => {
    const sandbox = Sandbox.open()
    await listen(sandbox.control, () => {})
    const begun = performance.now()
    const { code, stderr } = await sandbox.run('status', '--control', sandbox.control, '--timeout', '300ms')
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_DEADLINE: /)
    expect(stderr).toContain(`process ${process.pid}`)
    expect(stderr).toContain('300 ms')
    expect(performance.now() - begun).toBeLessThan(5_000)
  })

  it('says so when the peer leaves without an answer', async () => {
    const sandbox = Sandbox.open()
    await listen(sandbox.control, socket => {
      socket.once('data', () => socket.destroy())
    })
    const { code, stderr } = await sandbox.run('status', '--control', sandbox.control)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_CHANNEL_CLOSED: .*before it answered/)
  })
})

async function listen(path: string, onConnection: (socket: net.Socket) => void): Promise<void> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.resume()
    onConnection(socket)
  })
  await new Promise<void>(resolve => server.listen(path, resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
}
