import { createServer } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { serveDaemon } from '../../src/index.js'
import { join } from '../../src/member/joining/join.js'
import type { Member } from '../../src/member/member.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { servedBy, serviceWhere, startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 0, heartbeat: 50 }
/** Longer than a test may take. */
const LONG = 600_000

/** A daemon with one version that serves at an address, and a second one that has been offered it. */
async function joining(timeout = 10_000) {
  const { control } = Scene.open()
  const port = await freePort()
  const where = `tcp://127.0.0.1:${port}`
  const daemon = await serveDaemon({ control, upgrade: UPGRADE })
  onTestFinished(() => daemon.close())
  const version = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control, hosting: 'daemon', upgrade: UPGRADE, timeout })
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
  return { first, second, version, listens, url: `http://127.0.0.1:${port}/` }
}

/** The answer of a server, or the code of the error of the kernel. */
async function answerOf(url: string): Promise<string> {
  const answer = await fetch(url).catch((error: Error) => error)
  return answer instanceof Error ? (answer.cause as { code: string }).code : answer.text()
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

  it('refuses clients when the successor has failed', async () => {
    const { first, second, url } = await joining()
    first.unlisten('web')
    await heard(first)
    expect(await answerOf(url)).toBe('ok')
    await second.close()
    await until('it is refused', async () => (await answerOf(url)) === 'ECONNREFUSED')
  })

  it('answers until then, also if that takes longer than `timeout`', async () => {
    const { first, second, url } = await joining(1_000)
    first.unlisten('web')
    const at = performance.now()
    await until('that time is over', () => performance.now() - at > 1_100)
    expect(await answerOf(url)).toBe('ok')
    await second.close()
    await until('it is refused', async () => (await answerOf(url)) === 'ECONNREFUSED')
  })
})

describe('a listener that a version closes in its probation, while the one before has it too', () => {
  for (const hosting of ['embedded', 'daemon'] as const) {
    const versions = async (probation: number, timeout: number) => {
      const { control } = Scene.open()
      const upgrade = { probation, heartbeat: 50 }
      if (hosting === 'daemon') {
        const daemon = await serveDaemon({ control, upgrade })
        onTestFinished(() => daemon.close())
      }
      const [web, other] = [await freePort(), await freePort()]
      const server = createServer((_request, response) =>
        response.setHeader('connection', 'close').end('two'),
      )
      const version = async (answer: string) => {
        const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout } })
        onTestFinished(() => member.close({ timeout: 0 }))
        for (const [name, port] of [
          ['web', web],
          ['other', other],
        ] as const)
          (await member.listen(name, `tcp://127.0.0.1:${port}`)).serve(
            name === 'other' && answer === 'two'
              ? server
              : createServer((_request, response) => response.setHeader('connection', 'close').end(answer)),
          )
        await member.ready()
        return member
      }
      const first = await version('one')
      const second = await version('two')
      await until('the first one stands by', () => first.phase === 'standby')
      second.unlisten('other')
      const at = (port: number) => `http://127.0.0.1:${port}/`
      return { first, second, server, web: at(web), other: at(other) }
    }

    it(`answers until that one has closed it, and then refuses (${hosting})`, async () => {
      const { first, second, web, other } = await versions(1_000, 0)
      const answers: string[] = []
      await until('it is refused', async () => {
        const answer = await answerOf(other)
        if (answer === 'ECONNREFUSED') return true
        answers.push(answer)
        return false
      })
      expect(new Set(answers)).toEqual(new Set(['two']))
      expect([first.phase, second.phase]).toEqual(['gone', 'serving'])
      expect(await answerOf(web)).toBe('two')
    })

    it(`answers again after a pause (${hosting})`, async () => {
      const { second, web, other } = await versions(LONG, 0)
      second.pause()
      await second.resume()
      expect([await answerOf(web), await answerOf(other)]).toEqual(['two', 'two'])
    })

    it(`stays closed if the application closes its server too (${hosting})`, async () => {
      const { second, server, web } = await versions(LONG, 0)
      server.close()
      await second.resume()
      expect([server.listening, await answerOf(web)]).toEqual([false, 'two'])
    })

    it(`does not keep it from ending when that one serves again (${hosting})`, async () => {
      const { first, second, other } = await versions(LONG, LONG)
      expect(await answerOf(other)).toBe('two')
      await second.close({ timeout: LONG })
      await until('the first one serves', () => first.phase === 'serving')
      expect(await answerOf(other)).toBe('one')
    })
  }
})

describe('a listener that a version does not use has its waiting clients answered at the end, if the daemon is killed', () => {
  const versions = async () => {
    const [web, other] = [await freePort(), await freePort()]
    const upgrade = { probation: 1_500, heartbeat: 50, silence: 1_000 }
    const listeners = [
      { name: 'web', spec: `tcp://127.0.0.1:${web}` },
      { name: 'other', spec: `tcp://127.0.0.1:${other}` },
    ]
    const scene = Scene.open({ hosting: 'daemon', routes: 0, upgrade })
    const daemon = await startDaemon(scene, { upgrade })
    const first = await scene.serve({ listeners })
    return {
      scene,
      upgrade,
      daemon,
      first,
      next: async () => await scene.start({ listeners: listeners.slice(0, 1), unserved: true }),
      /** Starts a daemon again, in whose probation clients wait. */
      answers: async ({ pid }: App) => {
        await startDaemon(scene, { upgrade })
        await serviceWhere(scene, 'probation', status => status.phase === 'probation' && status.pid === pid)
        await until('the first one stands by', async () => (await first.order('phase')) === 'standby')
        expect((await ask(`http://127.0.0.1:${other}/`).answer).status).toBe(404)
        await serviceWhere(scene, 'idle', ({ phase }) => phase === 'idle')
      },
    }
  }

  it.runIf(NIGHTLY)('in its probation', async () => {
    const { answers, daemon, first, next, scene } = await versions()
    const app = await (await next()).serving()
    await first.says('retiring')
    await servedBy(scene, app)
    await daemon.kill()
    await answers(app)
  })

  it.runIf(NIGHTLY)('in its commit, so that no process was told', async () => {
    const { answers, daemon, first, next, scene, upgrade } = await versions()
    await daemon.kill()
    const traps = { 'holder committing': 'SIGKILL' } as const
    const second = await startDaemon(scene, { upgrade, traps })
    await servedBy(scene, first)
    const app = await next()
    await second.end()
    await answers(app)
  })
})

it('answers the clients that wait at its listeners when it ends, if its daemon is dead', async () => {
  const scene = Scene.open({ upgrade: UPGRADE })
  const daemon = await startDaemon(scene, { upgrade: UPGRADE })
  const { control } = scene
  const lines: string[] = []
  const logger = { ...SILENT, debug: (_facts: object, line: string) => void lines.push(line) }
  const member = await join({ service: 'shop', control, hosting: 'daemon', upgrade: UPGRADE, logger })
  const port = await freePort()
  const web = await member.listen('web', `tcp://127.0.0.1:${port}`)
  web.serve(createServer((_request, response) => response.end('ok')))
  let answer: Promise<string> | undefined
  // The connection waits in the kernel's queue behind the next tick.
  member.whileServing(() => () => {
    answer = ask(`http://127.0.0.1:${port}/`).answer.then(({ body }) => body)
    answer.catch(() => {})
    return new Promise<void>(process.nextTick)
  })
  await member.ready()
  await daemon.kill()
  await until('it knows', () => lines.filter(line => line.includes('cannot be reached')).length > 1)
  await member.close()
  expect(await answer).toBe('ok')
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
