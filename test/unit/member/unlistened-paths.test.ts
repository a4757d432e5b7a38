import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { until } from '../../processes/until.js'
import { versionsAt } from '../../processes/versions-at-address.js'

const upgrade = { probation: 60_000, heartbeat: 20, silence: 5_000 }

async function service(hosting: 'embedded' | 'daemon') {
  let path = ''
  const address = (folder: string) => {
    path = `${folder}/web.sock`
    return { spec: `unix:${path}`, target: { socketPath: path } }
  }
  return { ...(await versionsAt({ hosting, upgrade, address })), path }
}

describe.each(['embedded', 'daemon'] as const)(
  'the path of a Unix listener that the previous version closes, %s hosting,',
  hosting => {
    it('stays while the next version serves, in the probation', async () => {
      const { path, two, ask } = await service(hosting)
      const { first, second } = await two()
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
      const { two, ask } = await service(hosting)
      const { first, second } = await two()
      first.unlisten('web')
      await second.ready()
      await until('the second version answers', async () => (await ask()) === 'second')
    })

    it('goes when the next version fails, and no version listens there', async () => {
      const { path, listens, two, ask } = await service(hosting)
      const { first, second } = await two()
      first.unlisten('web')
      expect(existsSync(path)).toBe(true)
      await second.close({ timeout: 0 })
      await until('the path is removed', () => !existsSync(path))
      await listens(first, 'first again')
      expect(await ask()).toBe('first again')
    })

    it('may be used again in the probation, by the version that serves', async () => {
      const { path, listens, two, ask } = await service(hosting)
      const { first, second } = await two()
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
      const { listens, two, ask } = await service(hosting)
      const { first, second } = await two()
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
