// @ts-check
// Generates TypeScript from a .proto file: a class for each message, with types, `encode` and `decode`. The classes behave like those of protobufjs
// (test/property/proto-as-protobufjs.test.ts). src/proto/message.ts has the common code. Throws for kinds of fields that no file of proto/ uses.
//
// A uint64 is a number, up to 2^53 - 1; `decode` throws for a larger one.
import protobuf from 'protobufjs'

/** Code for each scalar type: its TypeScript type, its default value (not written), a test whether a value `$` is not the default, and how to read it. */
const SCALARS = /** @type {const} */ ({
  bool: { type: 'boolean', none: 'false', other: '$', read: 'reader.bool()' },
  bytes: { type: 'Uint8Array', none: 'NO_BYTES', other: '$.length > 0', read: 'reader.bytes()' },
  double: { type: 'number', none: '0', other: '!Object.is($, 0)', read: 'reader.double()' },
  fixed32: { type: 'number', none: '0', other: '$ !== 0', read: 'reader.fixed32()' },
  int32: { type: 'number', none: '0', other: '$ !== 0', read: 'reader.int32()' },
  string: { type: 'string', none: "''", other: "$ !== ''", read: 'reader.stringVerify()' },
  uint32: { type: 'number', none: '0', other: '$ !== 0', read: 'reader.uint32()' },
  uint64: { type: 'number', none: '0', other: '$ !== 0', read: 'readUint64(reader)' },
})

/** @type {Record<string, number>} */
const WIRE_TYPES = protobuf.types.basic
const PACKABLE = protobuf.types.packed
const LENGTH_DELIMITED = 2

/** @typedef {ReturnType<typeof fieldOf>} Field the code for one field */

/** @param {protobuf.Root} root @param {string} file */
export function moduleOf(root, file) {
  return `// Generated from proto/${file} by tools/build-proto.mjs.
import { checkDepth, defineOneOf, enter, leave, NO_BYTES, type OneOf, type Reader, readEntry, readerOf, readUint64, setFields, skipField, unset, Writer } from './message.js'

${root.nestedArray.map(declaration).join('\n')}`
}

/** @param {protobuf.ReflectionObject} object @returns {string} */
function declaration(object) {
  if (object instanceof protobuf.Type) return message(object)
  if (object instanceof protobuf.Enum) {
    const values = Object.entries(object.values).map(([name, value]) => `${name} = ${value}`)
    return `export enum ${object.name} { ${values.join(', ')} }\n`
  }
  if (!(object instanceof protobuf.Namespace) || object instanceof protobuf.Service)
    throw new Error(`${object.fullName} is not supported, see tools/proto/module.mjs`)
  return `export namespace ${object.name} {\n${object.nestedArray.map(declaration).join('\n')}}\n`
}

/** @param {protobuf.Type} type */
function message(type) {
  const { name } = type
  const fields = type.fieldsArray.toSorted((a, b) => a.id - b.id).map(fieldOf)
  const collections = fields.filter(({ empty }) => empty !== null)
  const defaults = fields.filter(({ empty }) => empty === null).map(({ name, none }) => `${name}: ${none}`)
  const oneOfs = type.oneofsArray.filter(oneOf => !oneOf.isProto3Optional)
  const choices = oneOfs.map(
    ({ name, oneof }) => `${name}?: ${oneof.map(field => `'${field}'`).join(' | ')} | undefined`,
  )
  return `
export class ${name} {
  declare $unknowns?: Uint8Array[]${lines(2, [...fields.map(({ own }) => own), ...choices], line => `declare ${line}`)}

  constructor(properties?: ${name}.$Properties) {${lines(4, collections, ({ name, empty }) => `this.${name} = ${empty}`)}
    if (properties) setFields(this, properties)
  }

  static create(properties: ${name}.$Shape): ${name} & ${name}.$Shape
  static create(properties?: ${name}.$Properties): ${name}
  static create(properties?: ${name}.$Properties): ${name} {
    return new ${name}(properties)
  }

  static encode(message: ${name}.$Properties, writer: Writer = Writer.create(), depth = 0): Writer {
    checkDepth(depth)${lines(4, fields, ({ write }) => write)}
    if (message.$unknowns != null) for (const field of message.$unknowns) writer.raw(field)
    return writer
  }

  static decode(bytes: Reader | Uint8Array, length?: number, depth = 0, into?: ${name}): ${name} & ${name}.$Shape {
    checkDepth(depth)
    const reader = readerOf(bytes)
    const outer = reader.len
    const end = enter(reader, length)
    const message = into ?? new ${name}()
    while (reader.pos < end) {
      const start = reader.pos
      const tag = reader.tag()
      switch (tag) {${lines(
        8,
        fields.flatMap(({ reads }) => reads),
        read => read,
      )}
      }
      skipField(reader, message, tag, depth, start)
    }
    leave(reader, length, end, outer)
    return message as ${name} & ${name}.$Shape
  }
}
${defaults.length > 0 ? `Object.assign(${name}.prototype, { ${defaults.join(', ')} })` : ''}${lines(0, oneOfs, oneOf => `defineOneOf(${name}.prototype, '${oneOf.name}', ${JSON.stringify(oneOf.oneof)})`)}

export namespace ${name} {
  export interface $Properties {
    $unknowns?: Uint8Array[]${lines(4, [...fields.map(({ given }) => given), ...choices], line => line)}
  }
  export type $Shape = ${oneOfs.length === 0 ? '$Properties' : shape(fields, oneOfs)}
${type.nestedArray.map(declaration).join('\n')}}
`
}

/** @template T @param {number} indent @param {readonly T[]} items @param {(item: T) => string} line */
function lines(indent, items, line) {
  return items.map(item => `\n${' '.repeat(indent)}${line(item)}`).join('')
}

/** Returns the type of a message with oneofs. @param {Field[]} fields @param {protobuf.OneOf[]} oneOfs */
function shape(fields, oneOfs) {
  const narrowed = oneOfs.map(({ name, oneof }) => {
    const members = fields.filter(({ name }) => oneof.includes(name))
    return `OneOf<'${name}', { ${members.map(({ name, shape }) => `${name}: ${shape}`).join('; ')} }>`
  })
  const others = fields
    .filter(({ name }) => !oneOfs.some(({ oneof }) => oneof.includes(name)))
    .map(({ name, shape }) => `${name}?: ${shape} | null`)
  return `{ ${['$unknowns?: Uint8Array[]', ...others].join('; ')} } & ${narrowed.join(' & ')}`
}

/** @param {protobuf.Field} field */
function fieldOf(field) {
  const { name, id, partOf, resolvedType } = field
  // With the names of the outer messages, because a nested message may have the same name as another message.
  const reference = resolvedType?.fullName.split('.').slice(2).join('.')
  const type = resolvedType instanceof protobuf.Enum ? 'int32' : field.type
  const scalar = SCALARS[/** @type {keyof typeof SCALARS} */ (type)]
  const isMessage = resolvedType instanceof protobuf.Type
  const isTextMap = field instanceof protobuf.MapField && field.keyType === 'string' && type === 'string'
  const isPacked = field.repeated && field.packed && type in PACKABLE
  if ((!isMessage && !scalar) || (field.map && !isTextMap) || isPacked)
    throw new Error(`${field.fullName}: a field of this kind is not supported, see tools/proto/module.mjs`)

  const tag = (id << 3) | (field.map ? LENGTH_DELIMITED : (WIRE_TYPES[type] ?? LENGTH_DELIMITED))
  const one = isMessage ? `${reference}.$Properties` : (reference ?? scalar.type)
  /** @param {string} value */
  const write = value =>
    isMessage
      ? `${reference}.encode(${value}, writer.uint32(${tag}).fork(), depth + 1).ldelim()`
      : `writer.uint32(${tag}).${type}(${value})`
  const value = `message.${name}`

  if (field.map)
    return {
      name,
      shape: 'Record<string, string>',
      own: `${name}: Record<string, string>`,
      given: `${name}?: Record<string, string> | null | undefined`,
      none: null,
      empty: '{}',
      write: `if (${value} != null) for (const [key, text] of Object.entries(${value})) writer.uint32(${tag}).fork().uint32(10).string(key).uint32(18).string(text).ldelim()`,
      reads: [`case ${tag}: readEntry(reader, ${value}, depth); continue`],
    }
  if (field.repeated) {
    const read = isMessage ? `${reference}.decode(reader, reader.size(), depth + 1)` : scalar.read
    // Other implementations may send numbers packed.
    const packed = `case ${(id << 3) | LENGTH_DELIMITED}: reader.${type}s(${value}); continue`
    return {
      name,
      shape: isMessage ? `${reference}.$Shape[]` : `${one}[]`,
      own: `${name}: ${one}[]`,
      given: `${name}?: ${one}[] | null | undefined`,
      none: null,
      empty: '[]',
      write: `if (${value} != null) for (const each of ${value}) ${write('each')}`,
      reads: [`case ${tag}: ${value}.push(${read}); continue`, ...(type in PACKABLE ? [packed] : [])],
    }
  }
  const shape = isMessage ? `${reference}.$Shape` : one
  const given = `${name}?: ${one} | null | undefined`
  const read = isMessage
    ? `${reference}.decode(reader, reader.size(), depth + 1, ${value} as ${reference} | undefined)`
    : scalar.read
  if (isMessage || partOf) {
    const chosen = partOf && !partOf.isProto3Optional ? `; message.${partOf.name} = '${name}'` : ''
    return {
      name,
      shape,
      own: given,
      given,
      none: 'null',
      empty: null,
      write: `if (${value} != null) ${write(value)}`,
      reads: [`case ${tag}: ${value} = ${read}${chosen}; continue`],
    }
  }
  /** @param {string} value */
  const isOther = value => scalar.other.replace('$', value)
  return {
    name,
    shape,
    own: `${name}: ${one}`,
    given,
    none: scalar.none,
    empty: null,
    write: `if (${value} != null && ${isOther(value)}) ${write(value)}`,
    reads: [
      `case ${tag}: { const value = ${scalar.read}; if (${isOther('value')}) ${value} = value; else unset(message, '${name}'); continue }`,
    ],
  }
}
