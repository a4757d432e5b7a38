import { expect, it, onTestFinished } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { closeAll } from '../../../src/kernel/index.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Link } from '../../../src/wire/link.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

/** A link to a peer that reads what it is told once it goes on: how it ended, and what both heard. */
function linked(options: { sendTimeoutMs?: number; maxQueuedBytes?: number } = {}) {
  const [ours, theirs] = channelPair(options)
  const [link, peer] = [new Link(ours), new Link(theirs)]
  const ends: (FdbError | null)[] = []
  const heard: string[] = []
  const told: string[] = []
  const broken = (error: FdbError) => expect.unreachable(error.message)
  link.start({
    message: ({ body }, fds) => {
      closeAll(fds)
      told.push(body!)
    },
    broken,
    end: error => ends.push(error),
  })
  const goOn = () =>
    peer.start({
      message: ({ body }, fds) => {
        closeAll(fds)
        if (heard.at(-1) !== body) heard.push(body!)
      },
      broken,
      end: () => heard.push('end'),
    })
  onTestFinished(() => {
    link.close()
    peer.close()
  })
  return { link, theirs, ends, told, heard, goOn }
}

it('heartbeats leave a peer that is stopped, however long, room for what it must hear', async () => {
  const { link, ends, heard, goOn } = linked()
  for (let beats = 0; beats < 5_000; beats++) link.beat({ healthy: true })
  expect(link.channel.queuedBytes).toBe(0)
  link.post({ retire: {} })
  link.post({ released: {} })
  expect(link.channel.queuedBytes).toBe(0)
  goOn()
  await until('it has heard all', () => heard.length === 3)
  expect(heard).toEqual(['heartbeat', 'retire', 'released'])
  link.beat({ healthy: true })
  await until('it hears that we live', () => heard.length === 4)
  expect(ends).toEqual([])
})

it.each([
  ['takes nothing for too long', { sendTimeoutMs: 30 }, 'ERR_FDB_DEADLINE'],
  ['has no room in its queue', { maxQueuedBytes: 1_000 }, 'ERR_FDB_CHANNEL_FULL'],
] as const)(
  'a word that a peer cannot be told ends the link, as what follows relies on it: it %s',
  async (_, options, code) => {
    const { link, ends, heard, goOn } = linked(options)
    while (link.channel.queuedBytes === 0) link.post({ heartbeat: { healthy: true } })
    for (let words = 0; words < 50; words++) link.post({ retire: {} })
    await until('it has ended', () => ends.length > 0)
    expect(ends).toMatchObject([{ code }])
    expect(link.open).toBe(false)
    goOn()
    await until('the peer sees it too', () => heard.includes('end'))
    expect(heard.at(-1)).toBe('end')
  },
)

it('hears a peer’s last message, though the peer can be told nothing any more', async () => {
  const { link, theirs, ends, told } = linked()
  theirs.start({ message: () => {}, end: () => {} })
  await theirs.send(fdbroker.wire.Envelope.encode({ abort: { code: 'ERR_FDB_ABORTED' } }).finish())
  await theirs.close()
  for (let words = 0; words < 3; words++) link.post({ retire: {} })
  await until('the end is told', () => ends.length > 0)
  expect(told).toEqual(['abort'])
  expect(ends).toEqual([null])
})
