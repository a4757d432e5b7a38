import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { moveChannelItems, movePair } from '../../../src/connections/move-channel.js'
import { type Caller, receiveHello } from '../../../src/holder/admission.js'
import { resolveTimes } from '../../../src/holder/times.js'
import { closeAll } from '../../../src/kernel/index.js'
import { ReportLink } from '../../../src/member/drain/report-link.js'
import { WriteForwarder } from '../../../src/member/state/write-forwarder.js'
import { acquireControl, closeControl, type FirstControl } from '../../../src/os/control-path.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { VERSIONS } from '../../../src/wire/link.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

it('a process that drains is brought newer segments, and ways for its connections', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-drain-'))
  const control = joinPath(folder, 'control.sock')
  const place = (await acquireControl(control)) as FirstControl
  const callers: Caller[] = []
  const listener = new ControlListener(place.listener)
  const admission = { versions: VERSIONS, service: 'shop', timeoutMs: 5_000, logger: SILENT }
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, caller => {
      caller.link.start({ message: (_, fds) => closeAll(fds), broken: () => {}, end: () => {} })
      callers.push(caller)
    }),
  )
  const log = new StateLog()
  const taken: string[] = []
  const take = (where: string) => (items: readonly BundleItem[]) => {
    taken.push(`${where}: ${items.map(({ role }) => role).join(', ')}`)
    closeAll(items.map(({ fd }) => fd))
  }
  let acceptsWrites = true
  const drain = new ReportLink({
    settings: {
      control,
      service: 'shop',
      versions: VERSIONS,
      times: resolveTimes({ heartbeat: 1_000 }),
      logger: SILENT,
    },
    hosting: () => ({ acceptsReports: true, acceptsWrites }),
    facts: () => ({ generation: 1, top: 0 }),
    report: () => ({ pid: process.pid, generation: 1, phase: 'leaving', connections: 0 }),
    writes: () => ({
      forwarder: new WriteForwarder(log, 1_000, () => {}),
      takeNewer: take('state'),
    }),
    events: {
      message: () => {},
      channel: items => {
        const isChannel = items.some(({ role }) => role === 'moveChannel')
        if (isChannel) take('moves')(items)
        return isChannel
      },
      connected: () => {},
    },
  })
  onTestFinished(() => {
    drain.stop()
    listener.stop()
    for (const { link, pidfd } of callers) {
      link.close()
      pidfd?.close()
    }
    closeControl(place)
    log.close()
    rmSync(folder, { recursive: true, force: true })
  })
  expect(drain.open()).toBe(true)
  acceptsWrites = false
  expect(drain.open()).toBe(false)
  const { link, intent } = await until('it reports', () => callers[0])
  expect(intent).toBe('draining')
  const segment = Segment.create(3)
  await link.sendBundle([{ role: 'segment', epoch: 3, writable: false, fd: segment.fd }], 5_000)
  using pair = movePair()
  await link.sendBundle(moveChannelItems({ spec: 'give', channel: pair.give, log: pair.log.fd }), 5_000)
  expect(taken).toEqual(['state: segment', 'moves: moveChannel, moveLog'])
  segment.close()
})
