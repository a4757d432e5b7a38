import { describe, expect, it, onTestFinished } from 'vitest'
import { Channel } from '../../src/channel/channel.js'
import { type Caller, receiveHello } from '../../src/holder/admission.js'
import { closeAll, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { SILENT } from '../../src/logger.js'
import { fdbroker } from '../../src/proto/wire.js'
import { Link, type WireEnvelope } from '../../src/protocol/link.js'
import { VERSIONS } from '../../src/protocol/versions.js'
import { until } from '../processes/until.js'

const own = process.geteuid!()

/** What a process of this user is answered, and whether it was admitted. */
async function connectAs(
  uid: number,
): Promise<{ answer: () => WireEnvelope | undefined; callers: Caller[] }> {
  const [here, there] = native.socketPair()
  const link = new Link(new Channel(OwnedFd.own(there, 'client')))
  const heard: WireEnvelope[] = []
  link.start({
    message: (envelope, fds) => {
      closeAll(fds)
      heard.push(envelope)
    },
    broken: () => {},
    end: () => {},
  })
  const callers: Caller[] = []
  const options = { versions: VERSIONS, service: 'shop', timeoutMs: 5_000, logger: SILENT }
  receiveHello(OwnedFd.own(here, 'holder'), { pid: process.pid, uid, gid: uid }, options, caller =>
    callers.push(caller),
  )
  onTestFinished(() => {
    link.close()
    for (const { link: theirs, pidfd } of callers) {
      theirs.close()
      pidfd?.close()
    }
  })
  const { min: versionMin, max: versionMax } = VERSIONS
  const hello = {
    versionMin,
    versionMax,
    service: 'shop',
    intent: fdbroker.wire.Intent.JOIN,
    pid: process.pid,
  }
  link.tell({ hello })
  return { answer: () => heard[0], callers }
}

describe('a holder', () => {
  it('admits its own user and root, by the word of the kernel', async () => {
    for (const uid of new Set([own, 0])) {
      const { callers } = await connectAs(uid)
      await until(`uid ${uid} is admitted`, () => callers.length === 1)
      expect(callers[0]?.uid).toBe(uid)
    }
  })

  it('admits no other user, whatever that one says', async () => {
    for (const uid of [own + 1, 65_534]) {
      const { answer, callers } = await connectAs(uid)
      const { reject } = await until(`uid ${uid} is answered`, answer)
      expect(reject).toMatchObject({
        code: 'ERR_FDB_DENIED',
        message: expect.stringContaining(
          `uid ${uid} may not use this control socket: it belongs to uid ${own}`,
        ),
      })
      expect(callers).toEqual([])
    }
  })
})
