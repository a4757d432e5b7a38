import { createServer } from 'node:http'
import { expect, it, onTestFinished } from 'vitest'
import { codec, defineSection } from '../../src/index.js'
import { join } from '../../src/member/joining/join.js'
import { Pending } from '../../src/wire/pending.js'
import { ask } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const VISITS = defineSection({ version: 1, codec: codec.json<number>() })

it('a request that changes the state is answered, although its process leaves the daemon meanwhile', async () => {
  const scene = Scene.open()
  await startDaemon(scene)
  const { control } = scene
  const member = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => member.close({ timeout: 0 }))
  const visits = member.section('visits', VISITS)
  const begun = new Pending<void>()
  const goOn = new Pending<void>()
  const server = createServer(async (_request, response) => {
    begun.resolve()
    await goOn.answer
    await visits.put('ann', 1)
    response.end('counted')
  })
  const { address } = (await member.listen('web', 'tcp://127.0.0.1:0')).serve(server)
  await member.ready()
  const { answer } = ask(`http://127.0.0.1:${address.port}/`)
  await begun.answer
  const closed = member.close()
  await expect.poll(() => member.status().listeners.map(({ accepting }) => accepting)).not.toContain(true)
  goOn.resolve()
  expect(await answer).toMatchObject({ body: 'counted' })
  await closed
  const next = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => next.close({ timeout: 0 }))
  expect(next.section('visits', VISITS).get('ann')).toBe(1)
})

it('a next version that joins while its predecessor answers the last request takes over', async () => {
  const scene = Scene.open()
  await startDaemon(scene)
  const { control } = scene
  const member = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => member.close({ timeout: 0 }))
  const begun = new Pending<void>()
  const goOn = new Pending<void>()
  const server = createServer(async (_request, response) => {
    begun.resolve()
    await goOn.answer
    response.end('old')
  })
  const { address } = (await member.listen('web', 'tcp://127.0.0.1:0')).serve(server)
  await member.ready()
  const { answer } = ask(`http://127.0.0.1:${address.port}/`)
  await begun.answer
  const closed = member.close()
  await expect.poll(() => member.status().listeners.map(({ accepting }) => accepting)).not.toContain(true)
  const next = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => next.close({ timeout: 0 }))
  ;(await next.listen('web', 'tcp://127.0.0.1:0')).serve(
    createServer((_request, response) => response.end('new')),
  )
  await next.ready()
  expect(await ask(`http://127.0.0.1:${address.port}/`).answer).toMatchObject({ body: 'new' })
  goOn.resolve()
  expect(await answer).toMatchObject({ body: 'old' })
  await closed
})
