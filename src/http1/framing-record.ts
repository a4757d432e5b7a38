/** How the end of a message is found; `none` is a message without body, `tunnel` is no message at all. */
export type FramingKind = 'none' | 'length' | 'chunked' | 'until-close' | 'tunnel'

/** The whole state of a tracker: a handful of numbers, the same wherever the bytes before were split. */
export interface FramingRecord {
  kind: FramingKind
  /** Bytes that are left: of the body (`length`), of this chunk's data (`chunked`). */
  left: number
  /** Position inside the chunk syntax, see `ChunkPhase`; 0 for other kinds. */
  phase: number
  /** Digits of the size, bytes of the extensions or bytes of the trailers seen so far; 0 for other kinds. */
  count: number
  /** Hash of the trailer name so far; 0 elsewhere. */
  hash: number
}
