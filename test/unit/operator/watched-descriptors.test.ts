import { it, onTestFinished } from 'vitest'
import type { Operations } from '../../../src/operator/requests.js'
import { serveOperator } from '../../../src/operator/server.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Link } from '../../../src/wire/link.js'
import { seeded } from '../../fixtures/seeded.js'
import { untyped } from '../../fixtures/untyped.js'
import { perLane } from '../../lanes/lane.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

const { Op } = fdbroker.wire.DescriptorRequest
const WATCHES = [1, 2]
/** A few lists fill the buffers of the kernel, so that the next one waits for the reader. */
const PADDING = 'x'.repeat(100_000)
const STEPS = 40

/** The number of the last change that a list has. */
const changeIn = (json: string) => (JSON.parse(json) as [{ change: number }])[0].change

/** A holder whose list has the number of its last change, and an operator that watches it twice over one connection. */
async function watched() {
  const changed = new Set<() => void>()
  let last = 0
  const descriptors = {
    list: () => [{ change: last, PADDING }],
    watch: (told: () => void) => {
      changed.add(told)
      return () => changed.delete(told)
    },
    hasClaim: () => false,
    operatorLeft: () => {},
  }
  const [ours, theirs] = channelPair()
  serveOperator(new Link(ours), untyped<Operations>({ descriptors }))
  const link = new Link(theirs)
  onTestFinished(() => link.close())
  /** The last change of which each watch has heard. */
  const heard = new Map<number, number>()
  const end = () => {}
  link.start({
    message: ({ descriptorReply: reply }) => {
      if (reply?.json) heard.set(reply.request!, changeIn(reply.json))
    },
    ...{ broken: end, end },
  })
  for (const request of WATCHES) await link.send({ descriptorRequest: { request, op: Op.WATCH } })
  await until('it watches', () => heard.size === WATCHES.length)
  const change = () => {
    last++
    for (const told of changed) told()
  }
  return { change, heard, link, last: () => last }
}

it('an operator that watches descriptors has the list of the last change, however slowly it reads', async () => {
  for (let seed = 1; seed <= perLane(5, 500); seed++) {
    const random = seeded(seed)
    const { change, heard, link, last } = await watched()
    const steps = [
      change,
      change,
      () => link.channel.pause(),
      () => link.channel.resume(),
      () => new Promise(setImmediate),
      () => Promise.resolve(),
    ]
    for (let n = 0; n < STEPS; n++) await steps[random(steps.length)]!()
    link.channel.resume()
    await until(
      `each watch has the list of the change ${last()}, seed ${seed}`,
      () => WATCHES.every(watch => heard.get(watch) === last()),
      5_000,
      () => JSON.stringify([...heard]),
    )
    link.close()
  }
})
