/** Changes of the paths below a path, by a pattern and its replacement, as `stripPrefix` and `addPrefix`. */

export interface PathChange {
  readonly strip: string
  /** Empty if nothing is put before the rest. */
  readonly add: string
  /** Whether the path itself stays as it is. */
  readonly isBelow: boolean
  /** Whether paths that only begin as the first segments do are changed too, as `/ax`. */
  readonly isOpen: boolean
  readonly isAnchored: boolean
  /** The differences to what the other server does. */
  readonly near: readonly string[]
}

/** The rest of a path: whether its slash is in the group, and the number of the group. */
const RESTS: Readonly<Record<string, { readonly hasSlash: boolean; readonly group: string }>> = {
  '/(.*)': { hasSlash: false, group: '1' },
  '/?(.*)': { hasSlash: false, group: '1' },
  '(/)?(.*)': { hasSlash: false, group: '2' },
  '(/|$)(.*)': { hasSlash: false, group: '2' },
  '(/.*)': { hasSlash: true, group: '1' },
  '(/.*)?': { hasSlash: true, group: '1' },
  '(.*)': { hasSlash: true, group: '1' },
}

/** Reads a pattern, as `^/api/(.*)$`, and a replacement, as `/v1/\1` or `/v1/$1`; null for others. */
export function pathChangeOf(pattern: string, replacement: string): PathChange | null {
  const [, anchor, strip, rest = ''] = /^(\^?)((?:\/[\w.~-]+)+)(.*?)\$?$/.exec(pattern) ?? []
  const [, add, slash, group] = /^((?:\/[\w.~-]+)*)(\/?)[\\$]([12])$/.exec(replacement) ?? []
  const known = RESTS[rest]
  if (strip === undefined || add === undefined || known === undefined || known.group !== group) return null
  // The rest would follow the last segment without a slash.
  if (!known.hasSlash && slash === '') return null
  const isBelow = rest === '/(.*)' || rest === '(/.*)'
  const itself = `${add}${slash}`
  return {
    strip,
    add,
    isBelow,
    isOpen: /^(?:\/\?|\(\/\)\?)?\(\.\*\)$/.test(rest),
    isAnchored: anchor !== '',
    near: [
      ...(known.hasSlash && slash === '/' ? ['slashes in a row count as one'] : []),
      ...(isBelow || itself === (add === '' ? '/' : add)
        ? []
        : [`${strip} itself becomes ${add === '' ? '/' : add}`]),
    ],
  }
}
