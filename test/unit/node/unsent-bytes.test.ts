import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { closeAll, socketOver, socketPair } from '../../../src/kernel/index.js'
import { succeedUnfinishedWrites } from '../../fixtures/node.js'
import { untyped } from '../../fixtures/untyped.js'

interface Requests {
  _getActiveRequests(): { readonly handle?: unknown; callback?: (error?: Error | null) => void }[]
}

it('no write of a connection fails that another process goes on to send, the one under way neither', async () => {
  const [here, there] = socketPair('writes')
  onTestFinished(() => closeAll([there]))
  const socket = socketOver(here, {})
  const ended: unknown[] = []
  const note = (error?: Error | null) => void ended.push(error ?? null)
  socket.write(Buffer.alloc(4 * 1024 * 1024), note)
  socket.write('later', note)
  const { _handle: handle } = untyped<{ _handle: unknown }>(socket)
  const request = untyped<Requests>(process)
    ._getActiveRequests()
    .find(each => each.handle === handle)
  succeedUnfinishedWrites(socket)
  // As Node does since version 22.
  request!.callback!(Object.assign(new Error('write ECANCELED'), { code: 'ECANCELED' }))
  socket.destroy()
  await once(socket, 'close')
  expect(ended).toEqual([null, null])
})
