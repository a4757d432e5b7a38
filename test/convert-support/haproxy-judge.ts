import type { Conversion } from '../../src/convert/convert.js'
import { readingsOf } from './haproxy-named.js'
import { withoutNamedRefusals } from './named-refusals.js'
import type { Asked, Got, Places } from './places.js'
import { type Difference, refuses, sorted, type Verdict } from './verdict.js'

/** A server that is not reached is no refusal. */
const isOpen = (one: Got, other: Got) =>
  refuses(one) &&
  one.status !== 400 &&
  !/^50/.test(String(one.status)) &&
  (other.server !== null || other.status < 300)

/**
 * Finds what must not be. Each answer of ours must be the one of HAProxy, or one that it has for the file as the remarks describe it; ours is open where HAProxy
 * refuses only if a remark names the refusal.
 */
export async function judgeHaproxy(
  places: Pick<Places, 'filled' | 'answersTo'>,
  written: string,
  conversion: Conversion | null,
  asked: readonly Asked[],
  theirs: readonly Got[],
  ours: readonly Got[],
): Promise<Verdict> {
  if (conversion === null) return { differences: [], strict: 0 }
  const { remarks } = conversion
  // Remarks name ports and files.
  const text = places.filled(written)
  const answersTo = async (other: string) => (other === text ? theirs : await places.answersTo(other, asked))
  let left = [...asked.keys()].filter(at => !alike(theirs[at]!, ours[at]!, true))
  const strict = asked.length - left.length
  const open = left.filter(at => isOpen(theirs[at]!, ours[at]!))
  left = left.filter(at => !open.includes(at))
  for (const reading of readingsOf(text, remarks)) {
    if (left.length === 0) break
    const answers = await answersTo(reading.text)
    // A reading may serve what HAProxy refuses: it decides whether a request has a value of a line that is named.
    const others = reading.valueless === reading.text ? answers : await answersTo(reading.valueless)
    left = left.filter(at => !alike(answers[at]!, ours[at]!, alike(answers[at]!, others[at]!, true)))
  }
  const unnamed =
    open.length === 0 ? theirs : await answersTo(withoutNamedRefusals(text, conversion, 'haproxy'))
  const found = [...open.filter(at => isOpen(unnamed[at]!, ours[at]!)), ...left]
  const kindOf = (one: Got, other: Got) =>
    isOpen(one, other) ? 'open' : refuses(other) && !refuses(one) ? 'closed' : 'wrong'
  const differences = found.map((at): Difference => {
    const [one, other] = [theirs[at]!, ours[at]!]
    return { kind: kindOf(one, other), asked: asked[at]!, theirs: one, ours: other }
  })
  return { differences, strict }
}

/** `withValues`: headers and targets are compared. */
function alike(one: Got, other: Got, withValues: boolean): boolean {
  if (refuses(one) && refuses(other)) return true
  const of = ({ status, location, body, server, seen, set }: Got) =>
    JSON.stringify([
      status,
      body,
      server,
      seen?.url,
      seen?.method,
      ...(withValues ? [location, sorted(seen?.headers), sorted(set)] : []),
    ])
  return of(one) === of(other)
}
