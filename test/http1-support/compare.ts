import { readWithNode } from './node-parser.js'
import { type Implementation, readWithOurs } from './our-parser.js'
import type { Random } from './random.js'
import type { Input, Message, Transcript } from './transcript.js'

/** Where two readings of the same bytes part. */
export interface Difference {
  /**
   * `stricter`: we refuse what Node takes; `laxer`: the other way round; `message`: both take it, but not as the same;
   * `sequence`: they see different messages; `split`: ours depends on how the bytes were split.
   */
  kind: 'stricter' | 'laxer' | 'message' | 'sequence' | 'split'
  /** Our reason, Node's code, or the part of the message. */
  detail: string
  input: Input
  ours: Transcript
  node: Transcript
  /** The message at which they part. */
  index: number
}

const PARTS = ['start', 'minor', 'fields', 'keepAlive', 'tunnel', 'body', 'trailers'] as const

/** The first difference, null if there is none. `cuts` are split points for a second reading of ours. */
export function compare(http1: Implementation, input: Input, cuts: readonly number[] = []): Compared {
  const node = readWithNode(input)
  const ours = readWithOurs(http1, input)
  const difference = (kind: Difference['kind'], detail: string, index = 0): Compared => ({
    accepted: isAccepted(node),
    difference: { kind, detail, input, ours, node, index },
  })
  if (cuts.length > 0) {
    const split = readWithOurs(http1, input, cuts)
    if (printed(split) !== printed(ours)) return difference('split', cuts.join())
  }
  const both = Math.min(ours.messages.length, node.messages.length)
  for (let i = 0; i < both; i++) {
    const part = PARTS.find(name => !same(ours.messages[i]!, node.messages[i]!, name))
    if (part !== undefined) return difference('message', part, i)
  }
  const oursWent = ours.messages.length > both
  const nodeWent = node.messages.length > both
  if (ours.verdict === 'refused' && !oursWent && (nodeWent || node.verdict !== 'refused')) {
    return difference('stricter', ours.reason!, both)
  }
  if (node.verdict === 'refused' && !nodeWent && (oursWent || ours.verdict !== 'refused')) {
    return difference('laxer', node.reason!, both)
  }
  if (oursWent || nodeWent || ours.verdict !== node.verdict) return difference('sequence', ours.verdict, both)
  return { accepted: isAccepted(node), difference: null }
}

/** Without the content of a body that was refused: how much of it was passed on before depends on the pieces. */
function printed(transcript: Transcript): string {
  return JSON.stringify(transcript.verdict === 'refused' ? { ...transcript, open: null } : transcript)
}

export interface Compared {
  /** Node's parser took the input: at least one message, and nothing refused. */
  accepted: boolean
  difference: Difference | null
}

/** Up to three split points, or every byte on its own. */
export function someCuts(random: Random, length: number): number[] {
  if (random.chance(10)) return Array.from({ length }, (_, at) => at)
  return Array.from({ length: 1 + random.int(3) }, () => 1 + random.int(Math.max(1, length - 1)))
}

function isAccepted(node: Transcript): boolean {
  return node.verdict !== 'refused' && node.messages.length > 0
}

function same(a: Message, b: Message, part: (typeof PARTS)[number]): boolean {
  return Array.isArray(a[part])
    ? a[part].join('\n') === (b[part] as string[]).join('\n')
    : a[part] === b[part]
}
