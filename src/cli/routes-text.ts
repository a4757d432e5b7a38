import type { AddReply, ListedRoute, RemoveReply } from '../proxy/routes/commands.js'
import { plain, table } from './table.js'

/** Names that are shown one by one. */
const SHOWN = 10

export function listText(routes: readonly ListedRoute[]): string {
  if (routes.length === 0) return 'no routes\n'
  const sorted = routes.toSorted(
    (a, b) => compare(a.host, b.host) || compare(a.path, b.path) || compare(a.origin, b.origin),
  )
  const rows = sorted.map(route => [
    route.host,
    route.path,
    route.shadowed ? 'file (out of force)' : route.origin,
    targetText(route.target),
    route.generation,
  ])
  return `${table(['HOST', 'PATH', 'ORIGIN', 'TARGET', 'GENERATION'], rows).join('\n')}\n`
}

export function addText({ added, replaced, unchanged, shadows, shadowed }: AddReply): string {
  const counts = [`${added} added`]
  if (replaced > 0) counts.push(`${replaced} replaced`)
  if (unchanged > 0) counts.push(`${unchanged} there already`)
  return `${counts.join(', ')}\n${named('in place of routes of the file', shadows, shadowed)}`
}

export function removeText({ removed, uncovers, uncovered }: RemoveReply): string {
  return `${removed} removed\n${named('the file’s are in force again', uncovers, uncovered)}`
}

function named(what: string, names: readonly string[], count: number): string {
  if (count === 0) return ''
  const more = count > SHOWN ? ` and ${count - SHOWN} more` : ''
  return `${what}: ${names.slice(0, SHOWN).map(plain).join(', ')}${more}\n`
}

function targetText(target: ListedRoute['target']): string {
  if (target === null) return 'of a newer version'
  if (target.kind === 'respond') return `respond ${target.status}`
  return target.connect ? `${target.upstream} (CONNECT too)` : target.upstream
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
