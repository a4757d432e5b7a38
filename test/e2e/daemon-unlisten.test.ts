import { createServer } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/index.js'
import { join } from '../../src/member/joining/join.js'
import type { Member } from '../../src/member/member.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 0, heartbeat: 50 }

/** A daemon with one version that serves at an address, and a second one that has been offered it. */
async function joining() {
  const { control } = Scene.open()
  const where = `tcp://127.0.0.1:${await freePort()}`
  const daemon = await serveDaemon({ control, upgrade: UPGRADE })
  onTestFinished(() => daemon.close())
  const version = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control, hosting: 'daemon', upgrade: UPGRADE })
    onTestFinished(() => member.close({ timeout: 0 }))
    return member
  }
  const listens = async (member: Member) => {
    const web = await member.listen('web', where)
    web.serve(createServer((_request, response) => response.end('ok')))
    return web
  }
  const first = await version()
  await listens(first)
  await first.ready()
  const second = await version()
  return { first, second, version, listens }
}

/** The daemon has read all messages that it was sent before it answers this. */
async function heard(member: Member): Promise<void> {
  await member.listen('behind it', 'tcp://127.0.0.1:0')
  member.unlisten('behind it')
}

describe('a listener that the version which serves closes while its successor starts', () => {
  it('goes to the successor that has asked for it, and to those after that', async () => {
    const { first, second, version, listens } = await joining()
    await listens(second)
    first.unlisten('web')
    await heard(first)
    await second.ready({ unserved: true })
    await first.retired
    const third = await version()
    expect((await listens(third)).adopted).toBe(true)
  })

  it('closes when the successor gives up', async () => {
    const { first, second, version } = await joining()
    first.unlisten('web')
    await heard(first)
    await second.close()
    let names: readonly string[] = ['web']
    await until('the next one may join, and is offered nothing of it', async () => {
      const third = await version().catch(() => null)
      if (third === null) return false
      names = third.status().listeners.map(({ name }) => name)
      const web = await third.listen('web', 'tcp://127.0.0.1:0')
      await third.close()
      return !web.adopted
    })
    expect(names).toEqual([])
  })
})

describe('a listener that a version closes in its probation, while the one before has it too', () => {
  for (const hosting of ['embedded', 'daemon'] as const) {
    it(`answers until that one has closed it, and then refuses (${hosting})`, async () => {
      const { control } = Scene.open()
      const upgrade = { probation: 1_000, heartbeat: 50 }
      if (hosting === 'daemon') {
        const daemon = await serveDaemon({ control, upgrade })
        onTestFinished(() => daemon.close())
      }
      const [web, other] = [await freePort(), await freePort()]
      const version = async (answer: string) => {
        const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout: 0 } })
        onTestFinished(() => member.close({ timeout: 0 }))
        for (const [name, port] of [
          ['web', web],
          ['other', other],
        ] as const)
          (await member.listen(name, `tcp://127.0.0.1:${port}`)).serve(
            createServer((_request, response) => response.setHeader('connection', 'close').end(answer)),
          )
        await member.ready()
        return member
      }
      const first = await version('one')
      const second = await version('two')
      await until('the first one stands by', () => first.phase === 'standby')
      second.unlisten('other')
      const answers: string[] = []
      await until('it is refused', async () => {
        const answer = await fetch(`http://127.0.0.1:${other}/`).catch((error: Error) => error)
        if (answer instanceof Error) return (answer.cause as { code?: string }).code === 'ECONNREFUSED'
        answers.push(await answer.text())
        return false
      })
      expect(new Set(answers)).toEqual(new Set(['two']))
      expect([first.phase, second.phase]).toEqual(['gone', 'serving'])
      expect(await (await fetch(`http://127.0.0.1:${web}/`)).text()).toBe('two')
    })
  }
})

describe('a descriptor for a version that stands by', () => {
  for (const hosting of ['embedded', 'daemon'] as const) {
    it(`meets a refusal, as it would be lost at its end (${hosting})`, async () => {
      const { control } = Scene.open()
      const upgrade = { probation: 60_000, heartbeat: 50 }
      if (hosting === 'daemon') {
        const daemon = await serveDaemon({ control, upgrade })
        onTestFinished(() => daemon.close())
      }
      const version = async () => {
        const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout: 0 } })
        onTestFinished(() => member.close({ timeout: 0 }))
        await member.ready()
        return member
      }
      const first = await version()
      await version()
      await until('the first stands by', () => first.phase === 'standby')
      await expect(first.listen('web', 'tcp://127.0.0.1:0')).rejects.toMatchObject({
        code: 'ERR_FDB_FENCED',
        retryable: true,
      })
    })
  }
})
