import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { type Caller, receiveHello } from '../../../src/holder/admission.js'
import { join } from '../../../src/index.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { acquireControl, closeControl, type FirstControl } from '../../../src/os/control-path.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { VERSIONS, type WireBody } from '../../../src/wire/link.js'
import { Segment } from '../../fixtures/state.js'
import { bundled } from '../../processes/bundled.js'
import { until } from '../../processes/until.js'

interface Tale {
  readonly items?: (place: FirstControl) => BundleItem[]
  readonly offer?: WireBody['offer']
  readonly pidfd?: OwnedFd
}

function segment(epoch: number, writable = true): BundleItem {
  return { role: 'segment', epoch, writable, fd: Segment.create(epoch).fd }
}

const WHOLE = () => [segment(1, false), segment(2), segment(3)]

/** The result of join() with a holder that says this; join() must end well, and leave no descriptor open. */
async function joinTo(tale: Tale): Promise<{ code?: string; message?: string }> {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-hostile-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const before = native.openCount()
  const place = (await acquireControl(control)) as FirstControl
  const listener = new ControlListener(place.listener)
  const callers: Caller[] = []
  const admission = { versions: VERSIONS, service: 'shop', timeoutMs: 1_000, logger: SILENT }
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, caller => {
      callers.push(caller)
      caller.link.start({
        message: (_envelope, fds) => closeAll(fds),
        bundle: items => closeAll(items.map(item => item.fd)),
        broken: () => caller.link.close(),
        end: () => {},
      })
      const { link } = caller
      const welcome = { version: 1, pid: process.pid, generation: 2, incarnation: '', serviceStartedAt: 1 }
      link.send({ welcome }, tale.pidfd ? [tale.pidfd] : []).catch(() => {})
      const items = tale.items?.(place) ?? []
      link.post({
        offer: { epoch: 2, wayBack: 3, source: 1, items: items.length, timeoutMs: 2_000, ...tale.offer },
      })
      link
        .sendBundle(items, 2_000)
        .catch(() => {})
        .finally(() => closeAll(items.map(item => item.fd)))
    }),
  )
  const outcome = await join({ service: 'shop', control, timeout: 2_000, upgrade: { ready: 500 } }).then(
    async member => {
      await member.close({ timeout: 0 })
      return {}
    },
    error => error,
  )
  for (const caller of callers) {
    caller.link.close()
    caller.pidfd?.close()
  }
  listener.stop()
  closeControl(place)
  tale.pidfd?.close()
  await until(
    'every descriptor is closed',
    () => native.openCount() <= before,
    5_000,
    () => `${native.openCount()} for ${before}`,
  )
  return outcome
}

describe('a process that joins a holder which does not keep to the protocol', () => {
  it('gets every offer, and joins: the measure for the other tests', async () => {
    expect(await joinTo({ items: WHOLE })).toEqual({})
  })

  it('refuses a segment that is none', async () => {
    const items = () => [
      segment(1, false),
      { role: 'segment', epoch: 2, writable: true, fd: OwnedFd.own(native.memfd('x'), 'x') } as const,
      segment(3),
    ]
    expect(await joinTo({ items })).toMatchObject({ code: 'ERR_FDB_STATE_FORMAT' })
  })

  it('refuses fewer descriptors than the offer names', async () => {
    expect(await joinTo({ items: WHOLE, offer: { items: 4 } })).toMatchObject({ code: 'ERR_FDB_FDS_MISSING' })
  })

  it('refuses an offer without the segments that it names', async () => {
    expect(await joinTo({ items: () => [segment(1, false), segment(2)] })).toMatchObject({
      code: 'ERR_FDB_FDS_MISSING',
    })
  })

  it('keeps one of several control listeners and locks', async () => {
    const items = (place: FirstControl): BundleItem[] => [
      ...WHOLE(),
      ...[1, 2, 3].flatMap(() => [
        { role: 'control', fd: place.listener.dup() } as const,
        { role: 'lock', fd: place.lock.dup() } as const,
      ]),
    ]
    expect(await joinTo({ items })).toEqual({})
  })

  it('refuses a proof of life that is none, also one that looks like a dead process', async () => {
    const nothing = openSync('/dev/null', 'r')
    onTestFinished(() => closeSync(nothing))
    const [ended, other] = native.socketPair()
    native.close(other)
    for (const raw of [native.dup(nothing), ended]) {
      const pidfd = OwnedFd.own(raw, 'no pidfd')
      expect(await joinTo({ items: WHOLE, pidfd })).toMatchObject({ code: 'ERR_FDB_NO_PIDFD' })
    }
  })
})

describe('a process that cannot watch another, for want of a descriptor', () => {
  it('finds out whether it has died all the same, and takes nobody who lives for dead', () => {
    const { file, env } = bundled('host-fate-without-room.ts')
    const script = 'ulimit -n 80; exec "$0" "$1"'
    const said = execFileSync('sh', ['-c', script, process.execPath, file], { env, encoding: 'utf8' })
    expect(JSON.parse(said)).toEqual({
      own: { known: true, pidfd: null, alive: true },
      alive: 'alive',
      dead: 'dead',
      filled: true,
    })
  })
})
