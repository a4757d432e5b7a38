import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { ControlListener } from '../../src/channel/control-listener.js'
import { receiveHello } from '../../src/holder/admission.js'
import { serveDaemon } from '../../src/index.js'
import { closeAll } from '../../src/kernel/index.js'
import { SILENT } from '../../src/logger.js'
import { join } from '../../src/member/join.js'
import { acquireControl, closeControl, type FirstControl } from '../../src/process/control-path.js'
import type { WireEnvelope } from '../../src/protocol/link.js'
import { VERSIONS } from '../../src/protocol/versions.js'
import { until } from '../processes/until.js'

/** A daemon that does not acknowledge what the first ones bring to it. Answers what it was told, a list for each channel. */
async function deafDaemon(control: string, deaf: number): Promise<WireEnvelope[][]> {
  const place = (await acquireControl(control)) as FirstControl
  const listener = new ControlListener(place.listener)
  const heard: WireEnvelope[][] = []
  const admission = { versions: VERSIONS, service: null, timeoutMs: 5_000, logger: SILENT }
  const ends: (() => void)[] = []
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, ({ link, pidfd }) => {
      const told: WireEnvelope[] = []
      ends.push(() => link.close())
      pidfd?.close()
      const taken = heard.push(told) > deaf
      link.start({
        message: (envelope, fds) => {
          closeAll(fds)
          if (!envelope.heartbeat) told.push(envelope)
        },
        ...(taken && { bundle: items => closeAll(items.map(({ fd }) => fd)) }),
        broken: () => {},
        end: () => {},
      })
      const { pid } = process
      link.tell({ welcome: { version: 1, pid, daemon: true, incarnation: 'another', generation: 1 } })
    }),
  )
  onTestFinished(() => {
    listener.stop()
    for (const end of ends) end()
    closeControl(place)
  })
  return heard
}

it('a member tells a new daemon where it stands until that has taken it', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const member = await join({
    service: 'shop',
    control,
    hosting: 'daemon',
    timeout: 200,
    drain: { timeout: 0 },
  })
  await member.listen('web', 'tcp://127.0.0.1:0')
  await member.ready()
  await daemon.close()
  const heard = await deafDaemon(control, 2)
  onTestFinished(() => member.close({ timeout: 0 }))
  await until('it is back', () => heard.at(-1)?.some(({ back }) => back))
  // What is held was not acknowledged on the first two channels: nothing is said there that would count on it.
  expect(heard.map(told => told.map(({ body }) => body))).toEqual([[], [], ['back']])
  expect(heard[2]?.[0]?.back).toMatchObject({ role: 'serving', sealed: false })
  expect(member.phase).toBe('serving')
})
