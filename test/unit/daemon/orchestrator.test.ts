import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { type Orchestrator, openDaemon } from '../../../src/daemon/daemon.js'
import { join } from '../../../src/index.js'

it('hears that its daemon leaves when the services still tell what they do', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-orchestrator-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const knows: boolean[] = []
  const create: NonNullable<Parameters<typeof openDaemon>[1]>['create'] = services => {
    const unused = () => expect.fail('not called')
    return {
      service: 'all',
      status: () => ({}),
      upgrade: unused,
      command: unused,
      listener: unused,
      receiver: () => null,
      servicesChanged: () => {},
      replaced: () => knows.push(services.get('shop') !== undefined),
      isSurplus: () => false,
    } satisfies Orchestrator
  }
  const daemon = await openDaemon({ control }, { create, hooks: null })
  const member = await join({ service: 'shop', control, hosting: 'daemon' })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  await daemon.close()
  expect(knows[0]).toBe(true)
})
