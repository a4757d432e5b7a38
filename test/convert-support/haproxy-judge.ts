import type { Conversion } from '../../src/convert/convert.js'
import { asNamed, withoutValues } from './haproxy-named.js'
import { type Difference, refuses, sorted, type Verdict } from './judge.js'
import { withoutNamedRefusals } from './named-refusals.js'
import type { Asked, Got, Places } from './places.js'

/** The answers of HAProxy, to the file and to what the remarks about its lines leave of it. */
interface Readings {
  readonly whole: readonly Got[]
  /** Without refusals that are named. */
  readonly unnamed: readonly Got[]
  /** As the remarks say that the new configuration is: any of these. */
  readonly named: readonly (readonly Got[])[]
  /** Without the lines whose values are named as others. */
  readonly valueless: readonly Got[]
}

/** A server that is not reached is no refusal. */
const isOpen = (one: Got, other: Got) =>
  refuses(one) &&
  one.status !== 400 &&
  !/^50/.test(String(one.status)) &&
  (other.server !== null || other.status < 300)

/** Compares ours with HAProxy, and where they differ also with HAProxy as the remarks describe the file. */
export async function judgeHaproxy(
  places: Places,
  text: string,
  conversion: Conversion | null,
  asked: readonly Asked[],
  theirs: readonly Got[],
  ours: readonly Got[],
): Promise<Verdict> {
  if (conversion === null) return { differences: [], strict: 0 }
  const first = verdictOf(asked, { whole: theirs, unnamed: theirs, named: [], valueless: theirs }, ours)
  if (first.differences.length === 0) return first
  const answersTo = async (other: string) => (other === text ? theirs : await places.answersTo(other, asked))
  const { remarks } = conversion
  return verdictOf(
    asked,
    {
      whole: theirs,
      unnamed: await answersTo(withoutNamedRefusals(text, conversion, 'haproxy')),
      named: [
        await answersTo(asNamed(text, remarks, 'said')),
        await answersTo(asNamed(text, remarks, 'widened')),
      ],
      valueless: await answersTo(withoutValues(text, remarks)),
    },
    ours,
  )
}

/** Finds what must not be. Each answer of ours must be the one of HAProxy, or the one that it has for the file as the remarks describe it. */
function verdictOf(
  asked: readonly Asked[],
  { whole, unnamed, named, valueless }: Readings,
  ours: readonly Got[],
): Verdict {
  const differences: Difference[] = []
  let strict = 0
  for (const [at, each] of asked.entries()) {
    const [one, other] = [whole[at]!, ours[at]!]
    const find = (kind: Difference['kind']) =>
      differences.push({ kind, asked: each, theirs: one, ours: other })
    if (isOpen(one, other)) {
      if (isOpen(unnamed[at]!, other)) find('open')
      continue
    }
    const withValues = alike(one, valueless[at]!, true)
    if (alike(one, other, true)) strict += 1
    else if ([whole, ...named].some(answers => alike(answers[at]!, other, withValues))) continue
    else find(refuses(other) && !refuses(one) ? 'closed' : 'wrong')
  }
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
