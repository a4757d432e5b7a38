import { describe, expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { WriteForwarder, writeSenderOver } from '../../../src/member/state/write-forwarder.js'
import { fdbroker } from '../../../src/proto/wire.js'
import type { ChannelOptions } from '../../../src/wire/channel.js'
import { checkDecodeCost } from '../../../src/wire/decode-cost.js'
import { FORWARDS_WRITES, Link } from '../../../src/wire/link.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

const { Envelope } = fdbroker.wire
type Write = fdbroker.wire.Write.$Properties

/** Two ends of a channel whose messages have up to so many bytes. */
function linked(payloadBytes: number) {
  const options: ChannelOptions = { limits: { payloadBytes } }
  const [link, theirs] = channelPair(options).map(channel => new Link(channel)) as [Link, Link]
  onTestFinished(() => {
    link.close()
    theirs.close()
  })
  const heard: Write[] = []
  theirs.start({
    message: ({ write }) => {
      if (write) heard.push(write)
    },
    broken: error => expect.unreachable(error.message),
    end: () => {},
  })
  return { link, heard }
}

describe('a courier of changes', () => {
  function writeSender(payloadBytes: number) {
    const { link, heard } = linked(payloadBytes)
    let failed = 0
    return { writeSender: writeSenderOver(link, () => void failed++), link, heard, failed: () => failed }
  }
  const reads = (count: number) =>
    Array.from({ length: count }, (_, n) => ({ section: 's', key: `${n}`, mark: Buffer.alloc(16) }))

  it('has the most that a change may be in messages that are taken', async () => {
    const { writeSender: way, heard } = writeSender(16 * 1024 * 1024)
    const request = 'r'.repeat(255)
    way.send(1, { request, parts: [Buffer.alloc(10)], reads: reads(32_000), durable: true })
    way.send(2, { request, parts: [Buffer.alloc(16 * 1024 * 1024 - 1022)], reads: reads(32_000) })
    await until('all have come', () => heard.length === 3)
    for (const write of heard) {
      const bytes = Envelope.encode({
        write: { ...write, number: 0xffff_ffff, source: 0xffff_ffff },
      }).finish()
      expect(bytes.length).toBeLessThanOrEqual(16 * 1024 * 1024)
      expect(() => checkDecodeCost(bytes)).not.toThrow()
    }
    expect(heard.map(write => [write.number, write.parts!.length, write.reads!.length, write.more])).toEqual([
      [1, 1, 32_000, false],
      [2, 1, 0, true],
      [2, 0, 32_000, false],
    ])
  })

  it('says that its link takes nothing more; its end is told otherwise', async () => {
    const { writeSender: way, link, heard, failed } = writeSender(1_000)
    way.send(1, { request: 'a', parts: [Buffer.alloc(10)], reads: [] })
    way.send(2, { request: 'b', parts: [Buffer.alloc(2_000)], reads: [] })
    await until('it is said', () => failed() > 0)
    way.send(3, { request: 'c', parts: [Buffer.alloc(10)], reads: [] })
    await until('the third has come', () => heard.length === 2)
    link.close()
    way.send(4, { request: 'd', parts: [Buffer.alloc(10)], reads: [] })
    // A closed link refuses at once.
    await new Promise(resolve => setImmediate(resolve))
    expect([failed(), heard.map(({ number }) => number)]).toEqual([1, [1, 3]])
  })
})

it('a process that forwards its changes leaves a link that takes nothing more for another one', async () => {
  const log = new StateLog()
  log.startWriting(Segment.create(1))
  onTestFinished(() => log.close())
  let reconnected = 0
  const forwarder = new WriteForwarder(log, 5_000, () => void reconnected++)
  const connect = () => {
    const { link } = linked(100)
    forwarder.onConnected(link)
    forwarder.onWelcome(link, { capabilities: [FORWARDS_WRITES] })
    return link
  }
  forwarder.start(new FdbError('ERR_FDB_FENCED', 'another serves'))
  const first = connect()
  log
    .section('s')
    .put('a', Buffer.alloc(1_000))
    .catch(() => {})
  await until('the first is left', () => reconnected === 1)
  forwarder.onLost(first)
  connect()
  await until('the second is left', () => reconnected === 2)
})

it('a change whose answer was lost with the link counts as made once it is in view', async () => {
  const [author, writer] = [new StateLog(), new StateLog()]
  onTestFinished(() => {
    author.close()
    writer.close()
  })
  author.startWriting(Segment.create(1))
  await author.section('s').put('a', Buffer.from('a'))
  author.pauseWriting()
  await writer.adopt(author.segments[0]!.readOnly())
  author.segments[0]!.seal()
  const segment = Segment.create(2)
  writer.startWriting(segment)
  const forwarder = new WriteForwarder(author, 60_000, () => {})
  forwarder.start(new FdbError('ERR_FDB_FENCED', 'another serves'))
  await author.adopt(segment.readOnly())
  author.follow()
  const { link, heard } = linked(1_000)
  forwarder.onConnected(link)
  forwarder.onWelcome(link, { capabilities: [FORWARDS_WRITES] })
  const put = author.section('s').put('b', Buffer.from('b'))
  await until('it is sent', () => heard.length === 1)
  const arriving = writer.incoming()
  for (const part of heard[0]!.parts!) arriving.add(Buffer.from(part))
  await writer.accept(arriving, { request: heard[0]!.request!, reads: [] })
  forwarder.onLost(link)
  await put
  expect(author.section('s').get('b')).toEqual(Buffer.from('b'))
})
