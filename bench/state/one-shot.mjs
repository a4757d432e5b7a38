// @ts-check
// The other way: everything is encoded at the moment of the upgrade. node --expose-gc one-shot.mjs CODEC COUNT prints JSON.
import { deserialize, serialize } from 'node:v8'
import { Packr } from 'msgpackr'
import protobufjs from 'protobufjs/minimal.js'
import { fdbroker } from '../../build/modules/proto/proxy.js'
import { startMemory } from './meter.mjs'
import { keyOf, routeOf } from './routes.mjs'

/** @typedef {Map<string, object>} Routes */

const { Route } = fdbroker.proxy
const packr = new Packr({ useRecords: false })

/** @type {Record<string, { encode: (routes: Routes) => Uint8Array, decode: (bytes: Uint8Array) => Routes }>} */
const codecs = {
  /** As protobufjs generates it for `repeated Entry { string key = 1; Route value = 2; }`. */
  protobufjs: {
    encode: routes => {
      const writer = protobufjs.Writer.create()
      for (const [key, value] of routes) {
        writer.uint32(10).fork().uint32(10).string(key)
        Route.encode(value, writer.uint32(18).fork()).ldelim()
        writer.ldelim()
      }
      return writer.finish()
    },
    decode: bytes => {
      const reader = protobufjs.Reader.create(bytes)
      const routes = new Map()
      while (reader.pos < reader.len) {
        reader.uint32()
        const end = reader.uint32() + reader.pos
        reader.uint32()
        const key = reader.string()
        reader.uint32()
        routes.set(key, Route.decode(reader, reader.uint32()))
        reader.pos = end
      }
      return routes
    },
  },
  msgpackr: {
    encode: routes => packr.pack([...routes]),
    decode: bytes => new Map(packr.unpack(bytes)),
  },
  'v8.serialize': { encode: routes => serialize(routes), decode: bytes => deserialize(bytes) },
  JSON: {
    encode: routes => Buffer.from(JSON.stringify([...routes])),
    decode: bytes => new Map(JSON.parse(Buffer.from(bytes).toString())),
  },
}

const [name = '', count = '0'] = process.argv.slice(2)
const codec = codecs[name]
if (codec === undefined) throw new Error(`codecs: ${Object.keys(codecs).join(', ')}`)
// Warm, as in a process that has done it before.
const few = new Map(Array.from({ length: 2000 }, (_, i) => [keyOf(i), routeOf(i)]))
for (let i = 0; i < 5; i++) codec.decode(codec.encode(few))

const routes = new Map(Array.from({ length: Number(count) }, (_, i) => [keyOf(i), routeOf(i)]))
const memory = startMemory()
const started = performance.now()
const bytes = codec.encode(routes)
const encoded = performance.now()
const { before, peak } = memory()
const decoding = performance.now()
const { size } = codec.decode(bytes)
const decode = performance.now() - decoding
if (size !== routes.size) throw new Error(`${size} routes of ${routes.size}`)
console.log(JSON.stringify({ encode: encoded - started, decode, bytes: bytes.length, before, peak }))
