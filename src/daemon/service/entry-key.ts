/** Identifies an entry of a daemon's registry: a descriptor of a service, or one that `fd-broker fd put` has stored, with the processes that its lease and claims depend on. */
export type EntryKey =
  | { readonly of: 'service'; readonly service: string; readonly role: string; readonly name: string }
  /** `fd`: the descriptor; `lifetime`: the pidfd of the process with which its lease ends. */
  | { readonly of: 'fd' | 'lifetime'; readonly name: string }
  /** The pidfd of a process that has claimed the descriptor. */
  | { readonly of: 'claim'; readonly name: string; readonly id: string }

/** Returns the entry's name in the registry. Releases read each other's names: a key of a service has three parts, the others have two. */
export function formatEntryKey(key: EntryKey): string {
  const parts =
    key.of === 'service'
      ? [key.service, key.role, key.name]
      : // The colon separates name and id: ids have no colons.
        [key.of, key.of === 'claim' ? `${key.name}:${key.id}` : key.name]
  return parts.map(encodeURIComponent).join('/')
}

/** Returns null for a name that no release has given. */
export function parseEntryKey(text: string): EntryKey | null {
  const parts = decoded(text.split('/'))
  const [first = '', second = '', name] = parts
  if (parts.length === 3) return { of: 'service', service: first, role: second, name: name! }
  if (parts.length !== 2) return null
  if (first === 'fd' || first === 'lifetime') return { of: first, name: second }
  const colon = second.lastIndexOf(':')
  return first === 'claim' && colon > 0
    ? { of: first, name: second.slice(0, colon), id: second.slice(colon + 1) }
    : null
}

function decoded(parts: readonly string[]): string[] {
  try {
    return parts.map(decodeURIComponent)
  } catch {
    // Not a percent-encoded text: another program's name.
    return []
  }
}
