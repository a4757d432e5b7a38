import type { Section } from './draft.js'

/** Sets a header, in the changes to requests or answers of a route. A header has one change, the last. */
export function setHeader(changes: Section, name: string, value: unknown): void {
  forget(changes, name)
  changes.set = { ...(changes.set as Section | undefined), [name]: value }
}

/** Adds a value to a header. Returns false if earlier changes do not tell which value the header has: the added one replaces it. */
export function addHeader(changes: Section, name: string, value: string): boolean {
  const isIt = (each: string) => each.toLowerCase() === name.toLowerCase()
  const known = Object.entries((changes.set ?? {}) as Section).find(([each]) => isIt(each))?.[1]
  const isKnown = known !== undefined || ((changes.remove ?? []) as string[]).some(isIt)
  setHeader(changes, name, known === undefined ? value : `${String(known)}, ${value}`)
  return isKnown
}

/** Removes a header. */
export function removeHeader(changes: Section, name: string): void {
  forget(changes, name)
  changes.remove = [...((changes.remove as string[] | undefined) ?? []), name]
}

/** The changes of both; those of the second come later. */
export function bothChanges(first: Section, second: Section): Section {
  const both: Section = { ...first, ...second }
  for (const key of ['set', 'remove']) {
    if (first[key] === undefined) delete both[key]
    else both[key] = first[key]
  }
  for (const name of (second.remove ?? []) as string[]) removeHeader(both, name)
  for (const [name, value] of Object.entries((second.set ?? {}) as Section)) setHeader(both, name, value)
  return both
}

function forget(changes: Section, name: string): void {
  const other = (each: string) => each.toLowerCase() !== name.toLowerCase()
  const set = Object.entries((changes.set ?? {}) as Section).filter(([each]) => other(each))
  const remove = ((changes.remove ?? []) as string[]).filter(other)
  delete changes.set
  delete changes.remove
  if (set.length > 0) changes.set = Object.fromEntries(set)
  if (remove.length > 0) changes.remove = remove
}
