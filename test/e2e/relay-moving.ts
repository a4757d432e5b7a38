import type net from 'node:net'
import { native } from '../../src/native.js'
import { type Relay, type Reopen, reopened } from '../../src/relay/index.js'

/** As another process would get it: a descriptor of its own, the old socket closed. */
function handedOver(transport: unknown): Reopen {
  const socket = transport as net.Socket & { _handle: { fd: number } }
  const fd = native.dup(socket._handle.fd)
  native.release(fd)
  socket.destroy()
  return reopened(fd)
}

/** Moves all connections once; returns how many they were. */
export function move(from: Relay, to: Relay): number {
  let moves = 0
  for (const { record, client, upstream } of from.exportAll()) {
    to.import(
      structuredCloneRecord(record),
      handedOver(client),
      upstream === null ? null : handedOver(upstream),
    )
    moves++
  }
  return moves
}

/** Nothing but plain values may be in a record. */
function structuredCloneRecord<T extends object>(record: T): T {
  const copy = structuredClone(record) as Record<string, unknown>
  for (const [key, value] of Object.entries(copy)) {
    if (value instanceof Uint8Array) copy[key] = Buffer.from(value)
  }
  return copy as T
}

/** Moves all connections of the relay out and in again at every turn of the event loop. */
export function startMoving(relay: Relay): { readonly moves: number; stop(): void } {
  const state = {
    moves: 0,
    on: true,
    stop() {
      state.on = false
    },
  }
  const step = (): void => {
    if (!state.on) return
    state.moves += move(relay, relay)
    setImmediate(step)
  }
  setImmediate(step)
  return state
}
