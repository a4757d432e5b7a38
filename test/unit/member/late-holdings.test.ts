import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Listener, type Member } from '../../../src/index.js'
import { untyped } from '../../fixtures/untyped.js'
import { startDaemon } from '../../processes/daemon.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

const UPGRADE = { probation: 100, heartbeat: 20, silence: 2_000 }
const HOSTINGS = ['embedded', 'daemon'] as const

/** Joins one service, again and again. */
async function service(hosting: 'embedded' | 'daemon'): Promise<() => Promise<Member>> {
  const scene = Scene.open({ hosting, upgrade: UPGRADE })
  if (hosting === 'daemon') await startDaemon(scene)
  return async () => {
    const member = await join({ service: 'shop', control: scene.control, hosting, upgrade: UPGRADE })
    onTestFinished(() => member.close({ timeout: 0 }))
    return member
  }
}

function file(content: string): number {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-late-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(joinPath(folder, 'f'), content)
  return openSync(joinPath(folder, 'f'), 'r')
}

function contentOf(member: Member, name: string): string {
  const number = member.held(name)?.release()
  if (number === undefined) return 'nothing is held'
  try {
    const into = Buffer.alloc(100)
    return into.toString('utf8', 0, readSync(number, into, 0, into.length, 0))
  } finally {
    closeSync(number)
  }
}

function serve(listener: Listener, who: string): void {
  listener.serve(http.createServer((_request, response) => response.end(who)))
}

async function ask(port: number): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false, timeout: 5_000 }, resolve).once('error', reject)
  })
  return await text(response)
}

const replaced = (member: Member) => until('the incumbent has left', () => member.phase === 'gone')

describe.each(HOSTINGS)(
  'a descriptor that the incumbent takes in while its successor starts, %s hosting',
  hosting => {
    it('reaches the successor, though that did not ask for it', async () => {
      const begin = await service(hosting)
      const first = await begin()
      await first.ready()
      const second = await begin()
      await first.hold('ledger', file('of the first'))
      await second.ready()
      await replaced(first)
      expect(contentOf(second, 'ledger')).toBe('of the first')
      const third = await begin()
      expect(contentOf(third, 'ledger')).toBe('of the first')
      await third.ready()
    })

    it('reaches the successor also when a stop of whileServing() gives it, behind Ready', async () => {
      const begin = await service(hosting)
      const first = await begin()
      await first.ready()
      first.whileServing(() => () => first.hold('ledger', file('of the hook')))
      const second = await begin()
      await second.ready()
      await replaced(first)
      expect(contentOf(second, 'ledger')).toBe('of the hook')
    })

    it('takes the place of the one of that name that the Offer brought', async () => {
      const begin = await service(hosting)
      const first = await begin()
      await first.hold('ledger', file('old'))
      await first.ready()
      const second = await begin()
      expect(contentOf(second, 'ledger')).toBe('old')
      await first.hold('ledger', file('new'))
      await until('it has crossed', () => contentOf(second, 'ledger') === 'new')
      await second.ready()
      await replaced(first)
      expect(contentOf(second, 'ledger')).toBe('new')
    })
  },
)

describe.each(HOSTINGS)(
  'a listener that the incumbent opens while its successor starts, %s hosting',
  hosting => {
    const opened = async () => {
      const begin = await service(hosting)
      const first = await begin()
      await first.ready()
      const second = await begin()
      const port = await freePort()
      const spec = `tcp://127.0.0.1:${port}`
      serve(await first.listen('extra', spec), 'first')
      await until('it has crossed', () => second.status().listeners.some(({ name }) => name === 'extra'))
      return { begin, first, second, port, spec }
    }

    it('serves in a successor that asks for it: no client is refused', async () => {
      const { first, second, port, spec } = await opened()
      const listener = await second.listen('extra', spec)
      expect(listener.adopted).toBe(true)
      serve(listener, 'second')
      await second.ready()
      await replaced(first)
      expect(await ask(port)).toBe('second')
    })

    it('refuses a successor that does not: the incumbent serves on, and the next version finds it', async () => {
      const { begin, first, second, port, spec } = await opened()
      await expect(second.ready()).rejects.toMatchObject({
        code: 'ERR_FDB_UNSERVED',
        retryable: true,
        details: { listener: 'extra' },
      })
      expect(first.phase).toBe('serving')
      expect(await ask(port)).toBe('first')
      const third = await until('the next version joins', () => begin().catch(() => null))
      const listener = await third.listen('extra', spec)
      expect(listener.adopted).toBe(true)
      serve(listener, 'third')
      await third.ready()
      await replaced(first)
      expect(await ask(port)).toBe('third')
    })

    it('refuses a successor that is ready already', async () => {
      const begin = await service(hosting)
      const first = await begin()
      await first.ready()
      const port = await freePort()
      first.whileServing(
        () => async () => serve(await first.listen('extra', `tcp://127.0.0.1:${port}`), 'first'),
      )
      const second = await begin()
      await expect(second.ready()).rejects.toMatchObject({ code: 'ERR_FDB_UNSERVED' })
      expect(await ask(port)).toBe('first')
    })

    it('stays behind if the successor means it', async () => {
      const { first, second, port } = await opened()
      await second.ready({ unserved: ['extra'] })
      await replaced(first)
      await until('clients are refused', async () =>
        ask(port).then(
          () => false,
          ({ code }) => code === 'ECONNREFUSED',
        ),
      )
    })
  },
)

describe('a listener that a version takes over and gives no server', () => {
  const taken = async () => {
    const begin = await service('embedded')
    const first = await begin()
    const port = await freePort()
    serve(await first.listen('web', `tcp://127.0.0.1:${port}`), 'first')
    await first.ready()
    const second = await begin()
    return { first, second, port, listener: await second.listen('web', `tcp://127.0.0.1:${port}`) }
  }
  const accepting = (member: Member) => member.status().listeners.map(one => one.accepting)

  it('refuses that version, which says so by name; the incumbent serves on', async () => {
    const { first, second, port } = await taken()
    await expect(second.ready()).rejects.toMatchObject({
      code: 'ERR_FDB_UNSERVED',
      message: expect.stringMatching(/"web".*serve\(\)/),
    })
    expect(first.phase).toBe('serving')
    expect(await ask(port)).toBe('first')
    expect(accepting(first)).toEqual([true])
  })

  it.each([[true], [['web']]])(
    'starts accepting later where that is meant (%s), and status says since when',
    async unserved => {
      const { first, second, port, listener } = await taken()
      await second.ready({ unserved })
      await replaced(first)
      expect(accepting(second)).toEqual([false])
      const answer = ask(port)
      serve(listener, 'second')
      expect(await answer).toBe('second')
      expect(accepting(second)).toEqual([true])
    },
  )

  it('makes ready() reject an option that is no list', async () => {
    const begin = await service('embedded')
    const member = await begin()
    await expect(member.ready({ unserved: untyped('web') })).rejects.toMatchObject({ code: 'ERR_FDB_OPTION' })
  })

  it('may be meant so: its clients wait for the server', async () => {
    const begin = await service('embedded')
    const first = await begin()
    const listener = await first.listen('web', 'tcp://127.0.0.1:0')
    await first.ready({ unserved: ['web'] })
    expect(accepting(first)).toEqual([false])
    serve(listener, 'first')
    await until('the server accepts', () => accepting(first)[0])
    expect(await ask(listener.address.port!)).toBe('first')
  })
})
