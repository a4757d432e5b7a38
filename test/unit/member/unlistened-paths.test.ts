import { existsSync } from 'node:fs'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Member } from '../../../src/index.js'
import { startDaemon } from '../../processes/daemon.js'
import { Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

const upgrade = { probation: 60_000, heartbeat: 20, silence: 5_000 }

/** Versions of one service, which listen as "web" at one Unix path. */
async function service(hosting: 'embedded' | 'daemon') {
  const scene = Scene.open({ hosting, upgrade })
  if (hosting === 'daemon') await startDaemon(scene)
  const path = `${scene.folder}/web.sock`
  const listens = async (member: Member, words: string) => {
    const listener = await member.listen('web', `unix:${path}`)
    listener.serve(http.createServer((_request, response) => response.end(words)))
  }
  const version = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control: scene.control, hosting, upgrade })
    onTestFinished(() => member.close({ timeout: 0, handBack: false }))
    return member
  }
  const ask = async () => {
    const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
      http.get({ socketPath: path, agent: false, timeout: 5_000 }, resolve).once('error', reject)
    })
    return await text(response)
  }
  return { path, listens, version, ask }
}

describe.each(['embedded', 'daemon'] as const)(
  'the path of a Unix listener that the previous version closes, %s hosting,',
  hosting => {
    it('stays while the next version serves, in the probation', async () => {
      const { path, listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      await second.ready()
      await until('the first version stands by', () => first.phase === 'standby')
      first.unlisten('web')
      expect(await ask()).toBe('second')
      await first.close()
      expect(await ask()).toBe('second')
      second.unlisten('web')
      await until('the path is removed', () => !existsSync(path))
    })

    it('stays for the next version, which has joined already', async () => {
      const { listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      first.unlisten('web')
      await second.ready()
      await until('the second version answers', async () => (await ask()) === 'second')
    })

    it('goes when the next version fails, and no version listens there', async () => {
      const { path, listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      first.unlisten('web')
      expect(existsSync(path)).toBe(true)
      await second.close({ timeout: 0 })
      await until('the path is removed', () => !existsSync(path))
      await listens(first, 'first again')
      expect(await ask()).toBe('first again')
    })

    it('may be used again in the probation, by the version that serves', async () => {
      const { path, listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      await second.ready()
      second.unlisten('web')
      await listens(second, 'second again')
      expect(await ask()).toBe('second again')
      await first.close()
      expect(await ask()).toBe('second again')
      second.unlisten('web')
      await until('the path is removed', () => !existsSync(path))
    })

    it('leads to the previous version after a rollback if that version listens again', async () => {
      const { listens, version, ask } = await service(hosting)
      const first = await version()
      await listens(first, 'first')
      await first.ready()
      const second = await version()
      await listens(second, 'second')
      await second.ready()
      await until('the first version stands by', () => first.phase === 'standby')
      first.unlisten('web')
      await second.close({ timeout: 0 })
      await until('the first version serves', () => first.phase === 'serving')
      await until('the socket of the second version is closed', () =>
        listens(first, 'first again').then(
          () => true,
          () => false,
        ),
      )
      expect(await ask()).toBe('first again')
    })
  },
)
