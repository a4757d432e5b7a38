import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Chosen, withMutants } from '../mutants/instrument.js'
import { type NativeMutant, withNativeMutants } from '../mutants/native.js'
import { ROOT } from '../mutants/workspace.js'
import { placeOf } from './place.js'
import type { Seed } from './seed.js'

/** A seed and the number that switches it on. */
export interface Numbered extends Seed {
  readonly id: number
}

export function numbered(seeds: readonly Seed[]): Numbered[] {
  return seeds.map((seed, at) => ({ ...seed, id: at + 1 }))
}

const sources = new Map<string, string>()

function sourceOf(file: string): string {
  const known = sources.get(file) ?? readFileSync(join(ROOT, file), 'utf8')
  sources.set(file, known)
  return known
}

/** Whether the source still has the text of the seed, once. */
export function isStale({ file, find }: Seed): boolean {
  const source = sourceOf(file)
  const at = source.indexOf(find)
  return at < 0 || source.indexOf(find, at + 1) >= 0
}

/** The source of a file with all these seeds in it, each behind its number. */
export function switchable(
  source: string,
  file: string,
  runtime: string,
  seeds: readonly Numbered[],
): string {
  const own = seeds.filter(seed => seed.file === file)
  if (!file.endsWith('.c'))
    return withMutants(
      source,
      own.map(seed => chosen(source, seed)),
      runtime,
    )
  return withNativeMutants(
    source,
    own.map(({ id, find, put }): NativeMutant => {
      const start = source.indexOf(find)
      return { id, start, end: start + find.length, text: put }
    }),
  )
}

function chosen(source: string, seed: Numbered): Chosen {
  const place = placeOf(source, seed)
  if (place === null)
    throw new Error(`${seed.file} has no text ${JSON.stringify(seed.find)}, or has it twice`)
  return { ...place, id: seed.id, file: seed.file, within: '', kind: 'seed' }
}
