import { dump } from 'js-yaml'
import { FdbError } from '../errors.js'
import type { Draft, Outcome, Remark } from './draft.js'
import { fromHaproxy } from './haproxy.js'
import { fromNginx } from './nginx.js'
import type { Included } from './nginx-syntax.js'
import { fromSozu } from './sozu.js'

export { includedBelow } from './included.js'

export type Language = 'nginx' | 'haproxy' | 'sozu'

export interface Conversion {
  /** The configuration, as the proxy reads it. */
  readonly document: Record<string, unknown>
  /** The same in YAML, behind a comment for each line that is not said as it was. */
  readonly yaml: string
  readonly counts: Readonly<Record<Outcome, number>>
  readonly remarks: readonly Remark[]
}

export interface ConvertOptions {
  readonly file: string
  readonly language: Language
  /** Name of the new service. */
  readonly service: string
  /** Finds what `include` of nginx names. */
  readonly included: Included
}

/** Translates a configuration of another server into one of the proxy. Throws ERR_FDB_CONFIG, with file and line, if the other server would not read it. */
export function convert(text: string, { file, language, service, included }: ConvertOptions): Conversion {
  const draft = draftOf(text, file, language, included)
  if (draft.listeners.size === 0)
    throw new FdbError(
      'ERR_FDB_CONFIG',
      draft.leavesOut
        ? `${file}: no listener is left: all of them refuse connections by a list, for which the proxy has no counterpart`
        : `${file}: no listener was found: is it a configuration of ${language}?`,
    )
  const document = draft.document(service)
  const counts = { said: 0, near: 0, own: 0, missing: 0 }
  for (const { outcome } of draft.remarks) counts[outcome] += 1
  const yaml = dump(document, { flowLevel: 2, lineWidth: -1, noRefs: true })
  return { document, yaml: `${comments(draft.remarks, file)}${yaml}`, counts, remarks: draft.remarks }
}

function draftOf(text: string, file: string, language: Language, included: Included): Draft {
  if (language === 'nginx') return fromNginx(text, file, included)
  return language === 'haproxy' ? fromHaproxy(text, file) : fromSozu(text, file)
}

/** The language of a file, by its name or its text; null if neither tells. */
export function languageOf(file: string, text: string): Language | null {
  if (/\.toml$/.test(file)) return 'sozu'
  if (/haproxy[^/]*$/i.test(file) || /^(?:frontend|backend|listen|defaults|global)\b[^{;]*$/m.test(text))
    return 'haproxy'
  if (/nginx/i.test(file) || /^\s*(?:server|http|upstream\s+\S+)\s*\{/m.test(text)) return 'nginx'
  return /^\[(?:\[listeners\]|clusters\.)/m.test(text) ? 'sozu' : null
}

const TITLES: readonly (readonly [Outcome, string])[] = [
  ['missing', 'without a counterpart'],
  ['near', 'with a difference'],
]

function comments(remarks: readonly Remark[], file: string): string {
  const blocks = TITLES.flatMap(([outcome, title]) => {
    const of = remarks.filter(each => each.outcome === outcome)
    if (of.length === 0) return []
    return [
      `# ${title}:`,
      ...of.map(
        ({ line, whys }) =>
          `#   ${plain(placeOf(line, file))}: ${shortened(line.text)}  (${plain(whys.join('; '))})`,
      ),
    ]
  })
  return blocks.length === 0 ? '' : `${blocks.join('\n')}\n`
}

function placeOf(line: Remark['line'], file: string): string {
  if (typeof line.place === 'string') return line.place
  return line.file === file ? `line ${line.place}` : `${line.file}:${line.place}`
}

const MOST_TEXT = 100

function shortened(text: string): string {
  const line = plain(text)
  return line.length > MOST_TEXT ? `${line.slice(0, MOST_TEXT)}…` : line
}

/** Without line breaks, behind which a comment would end. */
const plain = (text: string) => text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ')
