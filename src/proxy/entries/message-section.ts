import { codec, defineSection, type SectionOptions, type SectionSchema } from '../../index.js'

/** Defines a section of messages. Without a cache, because the proxy keeps what it needs in tables of its own. */
export function messageSection<M extends P, P = M>(
  type: Parameters<typeof codec.protobuf<M, P>>[0],
  options: Pick<SectionOptions<M>, 'secret'> = {},
): SectionSchema<M> {
  return defineSection<M>({ version: 1, codec: codec.protobuf<M, P>(type), cache: 0, ...options })
}
