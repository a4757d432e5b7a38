import { once } from 'node:events'
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Sandbox, urlOf, whoami } from './cli-processes.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A server that has a name and a folder of its own while it runs, as many have. */
const RENAMED = `import { createServer } from 'node:http'
import { join } from 'fd-broker'
process.title = 'shop: serving'
process.chdir('/')
const member = await join({ service: 'shop', control: process.argv[2], upgrade: { probation: 0 } })
const web = await member.listen('web', 'tcp://127.0.0.1:0')
web.serve(createServer((request, response) => response.end(RELEASE + process.argv[3])))
process.on('SIGTERM', () => member.close())
await member.ready()
`

it.runIf(NIGHTLY)(
  'a server that hangs is ended and followed by the next with --kill-stuck: no connect in its queue is lost, nor its state',
  async () => {
    const sandbox = Sandbox.open()
    const first = await sandbox.shop()
    const again = await sandbox.run('upgrade', '--control', sandbox.control)
    expect(again).toMatchObject({ code: 0 })
    const before = await sandbox.statusWhere(
      'the second has settled',
      ({ generation, phase }) => generation === 2 && phase === 'idle',
    )
    const { pid: hung } = before
    const url = new URL(urlOf(before))
    await until('the first has ended', () => hasEnded(first))
    signalPid(hung, 'SIGSTOP')

    const without = await sandbox.run('upgrade', '--control', sandbox.control, '--timeout', '500ms')
    expect(without.code).toBe(1)
    expect(without.stderr).toMatch(new RegExp(`^ERR_FDB_DEADLINE: .*process ${hung} `))
    expect(hasEnded(hung)).toBe(false)

    // Clients connect while no process accepts, and send while none reads.
    const waiting = Array.from({ length: 20 }, async () => {
      const socket = connect(Number(url.port), url.hostname)
      await once(socket, 'connect')
      socket.write('GET /whoami HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n')
      return socket
    })
    const sockets = await Promise.all(waiting)
    const answers = sockets.map(async socket => {
      let text = ''
      for await (const chunk of socket.setEncoding('utf8')) text += chunk
      return text
    })
    const missing = ['--kill-stuck', '--timeout', '1s', '--', '/nowhere/shop-2']
    const unknown = await sandbox.run('upgrade', '--control', sandbox.control, ...missing)
    expect(unknown.stderr).toMatch(/^ERR_FDB_NO_BINARY: /)
    expect(hasEnded(hung)).toBe(false)

    // Not as the server names it: relative, and through a link.
    const link = join(sandbox.folder, 'link')
    symlinkSync(dirname(sandbox.control), link)
    const control = relative(process.cwd(), join(link, basename(sandbox.control)))
    const run = sandbox.run('upgrade', '--control', control, '--kill-stuck', '--timeout', '10s')
    const { code, stdout, stderr } = await run
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(
      new RegExp(`process ${hung} \\(shop, generation 2\\) does not answer: .*killing it`),
    )
    const [, pid] = /^generation 3 \(pid (\d+)\) serves/m.exec(stdout) ?? []
    expect(hasEnded(hung)).toBe(true)
    for (const answer of await Promise.all(answers)) expect(answer).toMatch(new RegExp(`200 OK[^]*3,${pid}`))
    expect(await whoami(url.origin)).toEqual({ generation: 3, pid: Number(pid) })
    const after = await sandbox.statusWhere(
      'it is settled',
      now => now.pid === Number(pid) && now.phase === 'idle',
    )
    expect(after).toMatchObject({
      generation: 3,
      role: 'serving',
      blockedBy: [],
      serviceStartedAt: before.serviceStartedAt,
    })
    expect(after.listeners.map(({ name, cookie }) => [name, cookie])).toEqual(
      before.listeners.map(({ name, cookie }) => [name, cookie]),
    )
    expect(after.sections).toEqual(before.sections)
    // And again, though the next version keeps segments that were claimed then.
    signalPid(after.pid, 'SIGSTOP')
    expect(
      await sandbox.run('upgrade', '--control', control, '--kill-stuck', '--timeout', '10s'),
    ).toMatchObject({
      code: 0,
    })
    // And upgrades as ever.
    expect(await sandbox.run('upgrade', '--control', sandbox.control)).toMatchObject({ code: 0 })
  },
)

it('starts the next version of a server that hangs as that was started, though it has another title and folder now', async () => {
  const sandbox = Sandbox.open()
  const current = sandbox.file('current')
  for (const release of ['one', 'two']) {
    mkdirSync(sandbox.file(release))
    writeFileSync(sandbox.file(`${release}/server.mjs`), RENAMED.replace('RELEASE', `'${release} '`))
  }
  mkdirSync(sandbox.file('node_modules'))
  symlinkSync(ROOT, sandbox.file('node_modules/fd-broker'))
  symlinkSync('one', current)
  const start = 'cd "$1" && exec node server.mjs "$2" "an argument"'
  await sandbox.launch(['sh', '-c', start, 'sh', current, sandbox.control])
  const before = await sandbox.statusWhere('it serves', ({ role }) => role === 'serving')
  const answer = async () => (await fetch(urlOf(before))).text()
  expect(await answer()).toBe('one an argument')

  signalPid(before.pid, 'SIGSTOP')
  symlinkSync('two', `${current}~`)
  renameSync(`${current}~`, current)
  const run = await sandbox.run('upgrade', '--control', sandbox.control, '--kill-stuck', '--timeout', '10s')
  expect(run).toMatchObject({ code: 0, stderr: '' })
  expect(await answer()).toBe('two an argument')
})
