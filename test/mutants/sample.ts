interface Keyed {
  /** A hash: its order is random. */
  readonly key: string
}

interface Placed {
  readonly file: string
  readonly start: number
  readonly end: number
}

export function byKey<T extends Keyed>(all: readonly T[]): T[] {
  return all.toSorted((a, b) => (a.key < b.key ? -1 : 1))
}

/** As {@link byKey}, but takes one of each kind in turn, because some kinds have many more places than others. */
export function inTurn<T extends Keyed & { readonly kind: string }>(all: readonly T[]): T[] {
  const counts = new Map<string, number>()
  const ranked = byKey(all).map(each => {
    const turn = counts.get(each.kind) ?? 0
    counts.set(each.kind, turn + 1)
    return { each, turn }
  })
  return ranked.toSorted((a, b) => a.turn - b.turn).map(({ each }) => each)
}

/** Returns the first `count` places. Leaves out those that begin within an earlier one and end after it: one source cannot have both. */
export function sample<T extends Placed>(ranked: readonly T[], count: number): T[] {
  const taken: T[] = []
  for (const each of ranked) {
    if (taken.length === count) break
    if (!taken.some(other => crosses(each, other) || crosses(other, each))) taken.push(each)
  }
  return taken
}

function crosses(a: Placed, b: Placed): boolean {
  return a.file === b.file && a.start < b.start && b.start < a.end && a.end < b.end
}
