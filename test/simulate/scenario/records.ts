import { createHash } from 'node:crypto'
import type { RecordLayer, TrafficState } from '../../../src/tls13/record-layer.js'
import type { Code } from '../globals.js'
import type { World } from '../world.js'

/** The first byte of a connection with the records of TLS. No request begins with it. */
export const HELLO = 0x16
/** The client's only message in the open: both sides make their secrets from it. */
export const HELLO_BYTES = 33
export const NOTHING = Buffer.alloc(0)
const SUITE = 'TLS_AES_128_GCM_SHA256'
/** One of this many seeds has clients with TLS. */
const SEEDS = 5

export function hasTls(seed: number): boolean {
  return seed % SEEDS === 3
}

/** The records of one side of a connection, after the handshake. */
export function recordsOf({ RecordLayer }: Code, hello: Buffer, side: 'client' | 'server'): RecordLayer {
  const secretOf = (writer: string) => createHash('sha256').update(writer).update(hello).digest()
  return new RecordLayer({
    suite: SUITE,
    readSecret: secretOf(side === 'client' ? 'server' : 'client'),
    readSequence: 0,
    writeSecret: secretOf(side),
    writeSequence: 0,
    sealed: NOTHING,
    unsent: NOTHING,
    received: NOTHING,
  })
}

/** Writes the record of a moving connection: its position, and the bytes of a request that has begun. */
export function encode(state: TrafficState, bytes: readonly number[]): Buffer {
  const { suite, readSequence, writeSequence } = state
  const { readSecret, writeSecret, sealed, unsent, received } = state
  const parts = [readSecret, writeSecret, sealed, unsent, received, Buffer.from(bytes)]
  const lengths = parts.map(({ length }) => length)
  const head = Buffer.from(JSON.stringify({ suite, readSequence, writeSequence, lengths }))
  return Buffer.concat([Buffer.of(head.length), head, ...parts])
}

export function decode(record: Uint8Array): { state: TrafficState; bytes: number[] } {
  const text = Buffer.from(record)
  let at = 1 + text[0]!
  const { lengths, ...numbers } = JSON.parse(text.subarray(1, at).toString())
  const parts = (lengths as number[]).map(length => {
    at += length
    return text.subarray(at - length, at)
  })
  const [readSecret, writeSecret, sealed, unsent, received, bytes] = parts as [
    Buffer,
    Buffer,
    Buffer,
    Buffer,
    Buffer,
    Buffer,
  ]
  return { state: { ...numbers, readSecret, writeSecret, sealed, unsent, received }, bytes: [...bytes] }
}

/** Returns which processes have a secret of a moved connection in a memory file. */
export function secretsInFiles({ processes, secrets }: World): string[] {
  return [...processes.values()]
    .filter(({ memoryFiles }) =>
      [...memoryFiles].some(({ data }) => secrets.some(secret => data.includes(secret))),
    )
    .map(({ name }) => `${name} has a secret of a connection in a memory file`)
}
