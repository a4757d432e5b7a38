import { describe, expect, it } from 'vitest'
import { Channel } from '../../src/channel/channel.js'
import type { Caller } from '../../src/holder/admission.js'
import { ForwardedWrites, MOST_AUTHORS } from '../../src/holder/daemon/forwarded-writes.js'
import { SegmentShelf } from '../../src/holder/segment-shelf.js'
import { SILENT } from '../../src/logger.js'
import { identify, type ProcessIdentity } from '../../src/process/process-identity.js'
import { Link, type WireBody } from '../../src/protocol/link.js'
import { FORWARDS_WRITES } from '../../src/protocol/versions.js'
import { MOST_WORKERS } from '../../src/workers/options.js'
import { until } from '../processes/until.js'

describe('a generation that drains, to a daemon that was started anew', () => {
  it('is known to have given up its rights when it leaves, not while it stands by', async () => {
    const [ours, theirs] = Channel.pair()
    const identity = identify(process.pid)
    const gaveUp: ProcessIdentity[] = []
    const writes = new ForwardedWrites({
      name: 'shop',
      logger: SILENT,
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

describe('those that follow a service', () => {
  it('may be twice as many as there are workers, and who would be one more is told so, with the limit; the log says it once', () => {
    const logged: unknown[] = []
    const logger = { ...SILENT, warn: (facts: object) => void logged.push(facts) }
    const writes = new ForwardedWrites({
      name: 'shop',
      logger,
      shelf: new SegmentShelf(),
      served: () => true,
      writer: () => undefined,
      gaveUp: () => {},
    })
    const told: WireBody[] = []
    const follower = () => {
      const send = (body: WireBody) => Promise.resolve(void told.push(body))
      const link = { channel: { unref() {} }, start() {}, send, tell() {}, close() {} }
      const hello = { service: 'shop', capabilities: [FORWARDS_WRITES] }
      writes.add({ hello, intent: 'follow', link, pid: 7, pidfd: null } as unknown as Caller, {})
    }
    expect(MOST_AUTHORS).toBeGreaterThan(2 * MOST_WORKERS)
    for (let n = 0; n < MOST_AUTHORS; n++) follower()
    expect(told.filter(({ welcome }) => welcome)).toHaveLength(MOST_AUTHORS)
    for (const _again of [1, 2]) follower()
    const refused = told.slice(MOST_AUTHORS).map(({ reject }) => reject)
    expect(refused).toHaveLength(2)
    for (const reject of refused) {
      expect(reject).toMatchObject({ code: 'ERR_FDB_SERVICE_LIMIT', retryable: false })
      expect(reject?.message).toContain(`${MOST_AUTHORS} processes follow the state of the service "shop"`)
    }
    expect(logged).toMatchObject([{ service: 'shop', err: { code: 'ERR_FDB_SERVICE_LIMIT' } }])
    writes.close()
  })
})
