export type { BulkChange } from './bulk.js'
export { bytes, type Codec, json, msgpack, type ProtobufType, protobuf } from './codec.js'
export type { StateLogger } from './core.js'
export { Digest } from './digest.js'
export { REMOVE, type StateDraft } from './draft.js'
export type { Position } from './history.js'
export { encodeImport } from './import.js'
export { DEFAULT_LIMITS, type StateLimits } from './limits.js'
export type { RawEntry, RawSection, SectionDigest, StateStats } from './overview.js'
export {
  type DecodedChange,
  type DecodedRecord,
  type ReadEnd,
  type ReadOptions,
  readSegment,
} from './reader.js'
export { defineSection, type SectionOptions, type SectionSchema } from './schema.js'
export type { Section } from './section.js'
export type { ChangeListener, SectionChange } from './section-change.js'
export { type Appended, Segment, type SegmentKind, type SegmentOptions } from './segment.js'
export { StateLog, type StateLogOptions } from './state-log.js'
export type { WriteOptions } from './write-options.js'
