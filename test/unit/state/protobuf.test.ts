import { createRequire } from 'node:module'
import ours from 'protobufjs'
import { describe, expect, it } from 'vitest'
import { messageType } from '../../fixtures/message-type.js'
import { type ProtobufType, protobuf } from '../../fixtures/state.js'
import { untyped } from '../../fixtures/untyped.js'

type Runtime = typeof ours
interface Route {
  to: string
  $unknowns?: Uint8Array[]
}

const load = createRequire(import.meta.url)

/** The same release, loaded once more, as npm installs it a second time below a package that asks for a narrower range. */
function copyOf(name: string): Runtime {
  const loaded = Object.keys(load.cache).filter(path => path.includes('/protobufjs/'))
  const kept = loaded.map(path => [path, load.cache[path]] as const)
  for (const path of loaded) delete load.cache[path]
  const copy = load(name) as Runtime
  for (const [path, module] of kept) load.cache[path] = module
  return copy
}

/** Code as pbjs writes it for a message, in brief. */
function generated({ Reader, Writer }: Runtime, delimited: boolean): ProtobufType<Route> {
  type Input = InstanceType<Runtime['Reader']> | Uint8Array
  const own = (input: Input) => (input instanceof Reader ? input : Reader.create(input as Uint8Array))
  const type = {
    encode(message: Route) {
      const writer = Writer.create().uint32(10).string(message.to)
      for (const unknown of message.$unknowns ?? []) writer.raw(unknown)
      return writer
    },
    decode(input: Input, length?: number) {
      const reader = own(input)
      const end = length === undefined ? reader.len : reader.pos + length
      const message: Route = { to: '' }
      while (reader.pos < end) {
        const start = reader.pos
        const tag = reader.uint32()
        if (tag === 10) {
          message.to = reader.string()
          continue
        }
        reader.skipType(tag & 7, 0, tag)
        if (reader.discardUnknown === false)
          (message.$unknowns ??= []).push(reader.buf.subarray(start, reader.pos))
      }
      return message
    },
  }
  if (!delimited) return type
  return {
    ...type,
    decodeDelimited(input: Input) {
      const reader = own(input)
      const { decode } = this as typeof type
      return decode(reader, reader.uint32())
    },
  } as ProtobufType<Route>
}

function reflected(runtime: Runtime): ProtobufType<Route> {
  return messageType('Route', 'string to = 1;', runtime)
}

const another = copyOf('protobufjs')
const seven = load('protobufjs-7') as Runtime

/** A route of a later version: it has a second field. */
const later = Buffer.from('0a0568656c6c6f1064', 'hex')

describe('codec.protobuf', () => {
  it('has other copies to test with', () => {
    expect(another.Reader).not.toBe(ours.Reader)
    expect(() => reflected(another).decode(untyped(ours.Reader.create(later)))).toThrow('illegal buffer')
    expect(() => reflected(seven).decode(untyped(ours.Reader.create(later)))).toThrow('illegal buffer')
  })

  const runtimes = { 'this library': ours, 'another copy': another, 'protobufjs 7': seven }
  for (const [name, runtime] of Object.entries(runtimes)) {
    const types = {
      'a reflected type': reflected(runtime),
      'a generated one': generated(runtime, true),
      'a generated one without decodeDelimited': generated(runtime, false),
    }
    for (const [kind, type] of Object.entries(types)) {
      it(`takes ${kind} of ${name}`, () => {
        const codec = protobuf(type)
        const bytes = codec.encode({ to: 'shop' })
        expect(codec.decode(bytes).to).toBe('shop')
        expect(codec.decode(new Uint8Array(bytes)).to).toBe('shop')
      })
    }
  }

  for (const [name, runtime] of Object.entries({ 'this library': ours, 'another copy': another })) {
    for (const type of [reflected(runtime), generated(runtime, true)]) {
      it(`keeps with ${name} what a later version has written`, () => {
        const codec = protobuf(type)
        const route = codec.decode(later)
        expect(route.to).toBe('hello')
        expect(Buffer.from(codec.encode(route))).toEqual(later)
      })
    }
  }

  it('keeps that for a type without decodeDelimited when it has a reader of this library', () => {
    const codec = protobuf(generated(ours, false))
    expect(Buffer.from(codec.encode(codec.decode(later)))).toEqual(later)
  })

  it('leaves it to another copy without decodeDelimited, which drops it or not', () => {
    const codec = protobuf(generated(another, false))
    expect(codec.decode(later)).toEqual({ to: 'hello' })
    another.Reader.discardUnknown = false
    try {
      expect(Buffer.from(codec.encode(codec.decode(later)))).toEqual(later)
    } finally {
      another.Reader.discardUnknown = true
    }
  })

  it('gives bytes to what is not made by protobufjs', () => {
    const type: ProtobufType<Route> = {
      encode: ({ to }) => ({ finish: () => Buffer.from(to) }),
      decode: bytes => {
        if (!(bytes instanceof Uint8Array)) throw new TypeError('no bytes')
        return { to: Buffer.from(bytes).toString() }
      },
    }
    const codec = protobuf(type)
    expect(codec.decode(codec.encode({ to: 'shop' }))).toEqual({ to: 'shop' })
  })
})
