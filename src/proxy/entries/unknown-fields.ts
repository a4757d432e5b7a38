import protobufjs from 'protobufjs/minimal.js'

/** What newer versions wrote in a message and this one does not know, from this field number on. */
export function unknownFields(message: { $unknowns?: Uint8Array[] } | undefined, from = 1): Uint8Array[] {
  return (message?.$unknowns ?? []).filter(field => protobufjs.Reader.create(field).uint32() >>> 3 >= from)
}
