import { describe, expect, it } from 'vitest'
import { Channel } from '../../src/channel/channel.js'
import type { Caller } from '../../src/holder/admission.js'
import { ForwardedWrites } from '../../src/holder/daemon/forwarded-writes.js'
import { SegmentShelf } from '../../src/holder/segment-shelf.js'
import { identify, type ProcessIdentity } from '../../src/process/process-identity.js'
import { Link } from '../../src/protocol/link.js'
import { FORWARDS_WRITES } from '../../src/protocol/versions.js'
import { until } from '../processes/until.js'

describe('a generation that drains, to a daemon that was started anew', () => {
  it('is known to have given up its rights when it leaves, not while it stands by', async () => {
    const [ours, theirs] = Channel.pair()
    const identity = identify(process.pid)
    const gaveUp: ProcessIdentity[] = []
    const writes = new ForwardedWrites({
      shelf: new SegmentShelf(),
      served: () => true,
      writer: () => undefined,
      gaveUp: process => gaveUp.push(process),
    })
    const caller = { hello: { capabilities: [FORWARDS_WRITES] }, link: new Link(ours), pidfd: null, identity }
    writes.add(caller as unknown as Caller, {})
    const generation = new Link(theirs)
    const answered: number[] = []
    generation.start({
      message: ({ written }) => {
        if (written) answered.push(written.number ?? 0)
      },
      broken: () => {},
      end: () => {},
    })
    const say = (report: string) => generation.tell({ heartbeat: { healthy: true, report } })
    /** What was said before has been heard. */
    const heard = (number: number) => {
      generation.tell({ write: { number, request: 'a' } })
      return until(`${number} is answered`, () => answered.includes(number))
    }
    for (const report of ['', 'no report', 'null', '{"phase":"standby"}', '{"phase":"serving"}']) say(report)
    await heard(1)
    expect(gaveUp).toEqual([])
    say('{"phase":"leaving"}')
    await heard(2)
    expect(gaveUp).toEqual([identity])
    writes.close()
    generation.close()
  })
})
