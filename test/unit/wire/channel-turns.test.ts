import { expect, it, vi } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { HEADER_BYTES } from '../../../src/wire/frame.js'
import { channelPair } from '../../processes/channel-pair.js'
import { pause, until } from '../../processes/until.js'

it('a channel whose socket is in error is read to its end all the same', async () => {
  const [near, far] = channelPair()
  // The peer ends with this unread: the socket of this side is in error from the beginning.
  await near.send(Buffer.from('never read'))
  const sizes = Array.from({ length: 4 }, () => 32 * 1024 - HEADER_BYTES)
  for (const size of sizes) await far.send(Buffer.alloc(size))
  await far.close()
  const heard: number[] = []
  const end = await new Promise<FdbError | null>(resolve =>
    near.start({
      message: ({ length }) => {
        heard.push(length)
        // Longer than a turn: each ends where a frame does, and nothing but the socket says that there is more.
        const end = performance.now() + 5
        while (performance.now() < end);
      },
      end: resolve,
    }),
  )
  expect(heard).toEqual(sizes)
  expect(end).toMatchObject({ code: 'ERR_FDB_CHANNEL_RESET' })
})

it('a channel to which nothing comes takes no turn of the event loop', async () => {
  const [near, far] = channelPair()
  let heard = 0
  near.start({ message: () => heard++, end: () => {} })
  const turns = vi.spyOn(globalThis, 'setImmediate')
  try {
    await far.send(Buffer.from('one'))
    await until('it is heard', () => heard === 1)
    await pause(20)
    expect(turns.mock.calls.length).toBeLessThan(10)
  } finally {
    turns.mockRestore()
  }
  await Promise.all([near.close(), far.close()])
})

it('a channel that is read now delivers in this turn all that has arrived, of any size', async () => {
  const [near, far] = channelPair()
  const heard: number[] = []
  near.start({ message: ({ length }) => heard.push(length), end: () => {} })
  await Promise.all(Array.from({ length: 100 }, () => far.send(Buffer.alloc(1_000))))
  near.readNow()
  expect(heard).toHaveLength(100)
  near.readNow()
  expect(heard).toHaveLength(100)
  await Promise.all([near.close(), far.close()])
  near.readNow()
})
