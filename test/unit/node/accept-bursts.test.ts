import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { acceptInBursts } from '../../fixtures/node.js'
import { untyped } from '../../fixtures/untyped.js'

/** A server that listens, and for whose first connections others wait. */
function listening(waiting: number) {
  const counts = { accepted: 0, waiting }
  const handle = { onconnection: () => void counts.accepted++ }
  const server: { _handle: typeof handle | null } = { _handle: handle }
  acceptInBursts(untyped(server), () => {
    if (counts.waiting === 0) return false
    counts.waiting--
    counts.accepted++
    return true
  })
  return { counts, server, connect: () => Reflect.apply(handle.onconnection, handle, [0, {}]) }
}

it('a server accepts in a turn the connections that wait behind the first one', async () => {
  const { counts, connect } = listening(5)
  connect()
  await nextTurn()
  expect(counts).toEqual({ accepted: 6, waiting: 0 })
})

it('a server that stops listening in the turn of a connection accepts none behind it', async () => {
  const { counts, server, connect } = listening(5)
  connect()
  server._handle = null
  await nextTurn()
  expect(counts).toEqual({ accepted: 1, waiting: 5 })
})
