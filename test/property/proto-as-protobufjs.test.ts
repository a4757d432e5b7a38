import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'
import { beforeAll, describe, expect, it } from 'vitest'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** The generated code of a message, and how the test calls it. */
interface Generated {
  new (): object
  create(fields: object): object
  encode(message: object, writer?: protobuf.Writer, depth?: number): protobuf.Writer
  decode(reader: protobuf.Reader | Uint8Array, length?: number, depth?: number): object
}

const folder = fileURLToPath(new URL('../../proto', import.meta.url))
const files = readdirSync(folder).flatMap(file => (file.endsWith('.proto') ? file.replace('.proto', '') : []))

/** Each message of a file as protobufjs makes it at run time, and as tools/build-proto.mjs generates it. */
const pairs: { name: string; theirs: protobuf.Type; ours: Generated }[] = []

/**
 * Without any field, a message of protobufjs takes a tag for the number of its field: it refuses groups, and takes field 0. With one
 * that never comes it does as others do.
 */
const UNUSED = () => new protobuf.Field('unused', 2 ** 29 - 1, 'uint32')
const fieldsOf = (type: protobuf.Type) => type.fieldsArray.filter(({ name }) => name !== 'unused')

beforeAll(async () => {
  for (const file of files) {
    const { fdbroker } = await import(`../../src/proto/${file}.ts`)
    const visit = (space: protobuf.NamespaceBase, generated: Record<string, unknown>) => {
      for (const each of space.nestedArray) {
        const made = generated[each.name] as Record<string, unknown>
        if (each instanceof protobuf.Type && each.fieldsArray.length === 0) each.add(UNUSED())
        if (each instanceof protobuf.Type)
          pairs.push({ name: each.fullName, theirs: each, ours: made as unknown as Generated })
        if (each instanceof protobuf.Namespace) visit(each, made)
      }
    }
    const root = new protobuf.Root()
    root.resolvePath = (_, target) => `${folder}/${target.split('/').pop()}`
    visit(root.loadSync(`${file}.proto`).resolveAll().lookup('fdbroker') as protobuf.Namespace, fdbroker)
  }
})

const SCALARS: Record<string, fc.Arbitrary<unknown>> = {
  uint32: fc.oneof(fc.constant(0), fc.nat(300), fc.nat(2 ** 32 - 1)),
  fixed32: fc.nat(2 ** 32 - 1),
  int32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  sint32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  uint64: fc.oneof(fc.constant(0), fc.nat(300), fc.maxSafeNat()),
  double: fc.oneof(fc.constant(0), fc.constant(-0), fc.double()),
  bool: fc.boolean(),
  string: fc.string({ unit: 'grapheme', maxLength: 20 }),
  bytes: fc.uint8Array({ maxLength: 20 }).map(bytes => Buffer.from(bytes)),
}

/** Fields of a message, some of them not there, none, or what a message has that does not say. */
function message(type: protobuf.Type, depth = 0): fc.Arbitrary<Record<string, unknown>> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {}
  for (const field of fieldsOf(type)) {
    const { resolvedType } = field
    if (resolvedType instanceof protobuf.Type && depth > 2) continue
    const one =
      resolvedType instanceof protobuf.Type
        ? message(resolvedType, depth + 1)
        : resolvedType !== null
          ? SCALARS.int32
          : SCALARS[field.type]
    if (one === undefined) throw new Error(`${field.fullName} is a ${field.type}: say here what that may be`)
    const value = field.map
      ? fc.dictionary(fc.string({ maxLength: 5 }), one, { maxKeys: 3 })
      : field.repeated
        ? fc.array(one, { maxLength: 3 })
        : one
    fields[field.name] = fc.option(fc.option(value, { nil: null }), { nil: undefined })
  }
  return fc.record(fields, { requiredKeys: [] })
}

/** A message as data, wherever its numbers come from. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  if ('toNumber' in value) return Number(value)
  const known = Object.getOwnPropertyNames(value).map(key => [
    key,
    plain((value as Record<string, unknown>)[key]),
  ])
  return Object.fromEntries(known)
}

function outcome(read: () => object): unknown {
  try {
    return plain(read())
  } catch (error) {
    return String(error)
  }
}

describe('every message of ours', () => {
  it('has its class', () => {
    expect(pairs.length).toBeGreaterThan(80)
  })

  it('encodes as in protobufjs', () => {
    for (const { theirs, ours } of pairs)
      fc.assert(
        fc.property(message(theirs), fields => {
          const expected = Buffer.from(theirs.encode(fields).finish())
          expect(Buffer.from(ours.encode(fields).finish())).toEqual(expected)
          expect(Buffer.from(ours.encode(ours.create(fields)).finish())).toEqual(
            Buffer.from(theirs.encode(theirs.create(fields)).finish()),
          )
        }),
        { numRuns: perLane(12, 60) },
      )
  })

  it('decodes as in protobufjs: merged, damaged, cut, and with fields of later versions', () => {
    for (const { theirs, ours } of pairs) {
      const bytes = fc
        .tuple(
          fc.array(message(theirs), { maxLength: 2 }),
          fc.oneof(fc.uint8Array({ maxLength: 4 }), fc.constant([124]), fc.constant([124, 8])),
        )
        .map(([messages, rest]) =>
          Buffer.concat([...messages.map(fields => theirs.encode(fields).finish()), Uint8Array.from(rest)]),
        )
      const damage = fc.option(fc.tuple(fc.nat(), fc.nat(255)), { nil: undefined })
      fc.assert(
        fc.property(bytes, damage, fc.boolean(), fc.option(fc.nat(40)), (whole, hit, discard, length) => {
          const input = Buffer.from(whole)
          if (hit !== undefined && input.length > 0) input[hit[0] % input.length] = hit[1]
          const read = (type: Generated | protobuf.Type) =>
            outcome(() => {
              const reader = protobuf.Reader.create(input)
              reader.discardUnknown = discard
              const message = type.decode(reader, length ?? undefined)
              const again = Buffer.from(type.encode(message).finish())
              return { message, keys: Object.keys(message), again, rest: reader.len - reader.pos }
            })
          const [got, expected] = [read(ours), read(theirs)]
          // Numbers that are not exact are refused, and of no other length are they read.
          if (typeof got === 'string' && /uint64/.test(got)) return
          expect(got).toEqual(expected)
        }),
        { numRuns: perLane(25, 120) },
      )
    }
  })

  it('has for a field that is not there what protobufjs has', () => {
    for (const { name, theirs, ours } of pairs)
      for (const field of fieldsOf(theirs)) {
        const value = (type: object) => plain((type as Record<string, unknown>)[field.name])
        // Code that protobufjs makes at run time has zeros in oneofs, and arrays for bytes.
        const expected = field.partOf
          ? null
          : field.type === 'bytes' && !field.repeated
            ? ''
            : value(theirs.create())
        expect([name, field.name, value(new ours())]).toEqual([name, field.name, expected])
      }
  })

  it('does not lie deeper in others than protobufjs lets it', () => {
    for (const { ours } of pairs) {
      const depth = protobuf.Reader.recursionLimit
      const none = Buffer.alloc(0)
      ours.decode(none, undefined, depth)
      ours.encode({}, undefined, depth)
      expect(() => ours.decode(none, undefined, depth + 1)).toThrow('max depth exceeded')
      expect(() => ours.encode({}, undefined, depth + 1)).toThrow('max depth exceeded')
    }
  })
})
