import type { Sources } from './imports.js'
import { codeOf } from './source-text.js'

/** A member of an interface, at its first level. */
const MEMBER = /^ {2}(?:readonly )?\w+\??(?:<[^\n]*?>)?[:(]/gm
const CONSTRUCTOR = /^ {2}(?:private )?constructor\((.*?)\) \{/gms
const INTERFACE = /^(?:export )?interface (\w+)[^\n{]*\{\n(.*?)^\}/gms

/**
 * The parts of these sources that get more than `most` values when they are made, as `PATH NAME: COUNT`: interfaces whose names end with `Deps`, those
 * that a constructor of the same file takes, and constructors with so many parameters.
 */
export function crowdedParts(sources: Sources, most: number): string[] {
  return [...sources].flatMap(([path, source]) => {
    const code = codeOf(source)
    const constructors = [...code.matchAll(CONSTRUCTOR)].map(([, parameters]) => parameters!)
    const counts = [...code.matchAll(INTERFACE)]
      .filter(([, name]) => name!.endsWith('Deps') || constructors.some(each => takes(each, name!)))
      .map(([, name, body]) => ({ name: name!, count: [...body!.matchAll(MEMBER)].length }))
    const parameters = constructors.map(each => ({ name: 'constructor', count: parametersIn(each) }))
    return [...counts, ...parameters].flatMap(({ name, count }) =>
      count > most ? [`${path} ${name}: ${count}`] : [],
    )
  })
}

function takes(parameters: string, name: string): boolean {
  return new RegExp(`: ${name}\\b`).test(parameters)
}

/** The number of parameters: of names at the first level that are followed by their type or default. */
function parametersIn(text: string): number {
  let depth = 0
  let count = text.trim() === '' ? 0 : 1
  for (const [i, char] of [...text.trim().replace(/,$/, '')].entries()) {
    if ('([{<'.includes(char)) depth++
    else if (')]}'.includes(char) || (char === '>' && text.trim()[i - 1] !== '=')) depth--
    else if (char === ',' && depth === 0) count++
  }
  return count
}
