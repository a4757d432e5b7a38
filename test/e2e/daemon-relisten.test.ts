import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

it('a listener that could not be moved, as the daemon did not answer, is there as before', async () => {
  const scene = Scene.open()
  const daemon = await startDaemon(scene)
  const { control } = scene
  const member = await join({ service: 'shop', control, hosting: 'daemon', timeout: 700 })
  onTestFinished(() => member.close({ timeout: 0 }))
  const web = await member.listen('web', 'tcp://127.0.0.1:0')
  web.serve(createServer((_request, response) => response.end('ok')))
  await member.ready()
  daemon.signal('SIGSTOP')
  const deadline = { code: 'ERR_FDB_DEADLINE' }
  await expect(member.relisten('web', 'tcp://127.0.0.2:0')).rejects.toMatchObject(deadline)
  await expect(member.listen('more', 'tcp://127.0.0.1:0')).rejects.toMatchObject(deadline)
  daemon.signal('SIGCONT')
  expect(member.status().listeners.map(({ name, address }) => [name, address])).toEqual([
    ['web', web.address.url],
  ])
  web.stop()
  web.start()
  const answer = await fetch(`http://127.0.0.1:${web.address.port}/`, { headers: { connection: 'close' } })
  expect(await answer.text()).toBe('ok')
})

it('a client that connects while a listener closes gets its answer, although the daemon has the listener for a moment longer', async () => {
  const scene = Scene.open()
  await startDaemon(scene)
  const { control } = scene
  const member = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => member.close({ timeout: 0 }))
  const server = createServer((_request, response) => response.end('ok'))
  const { address } = (await member.listen('web', 'tcp://127.0.0.1:0')).serve(server)
  await member.ready()
  member.unlisten('web')
  const late = connect(address.port!, '127.0.0.1')
  late.end('GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n\r\n')
  expect(await text(late)).toContain('200 OK')
  if (server.listening) await once(server, 'close')
  const [error] = await once(connect(address.port!, '127.0.0.1'), 'error')
  expect(error).toMatchObject({ code: 'ECONNREFUSED' })
})

it('a client that waits at a listener that closes gets its answer, although its process leaves before the daemon has answered', async () => {
  const scene = Scene.open()
  const daemon = await startDaemon(scene)
  const member = await join({ service: 'shop', control: scene.control, hosting: 'daemon' })
  onTestFinished(() => member.close({ timeout: 0 }))
  const server = createServer((_request, response) => response.end('ok'))
  const { address } = (await member.listen('web', 'tcp://127.0.0.1:0')).serve(server)
  await member.ready()
  daemon.signal('SIGSTOP')
  member.unlisten('web')
  const closed = member.close()
  await expect.poll(() => member.status().listeners.map(({ accepting }) => accepting)).not.toContain(true)
  const late = connect(address.port!, '127.0.0.1')
  late.end('GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n\r\n')
  await once(late, 'connect')
  daemon.signal('SIGCONT')
  expect(await text(late)).toContain('200 OK')
  await closed
})
