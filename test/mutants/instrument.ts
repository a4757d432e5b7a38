import { type FunctionBody, type Mutant, Places } from './places.js'

/** A mutant that was chosen, with the number by which it is switched on. */
export interface Chosen extends Mutant {
  readonly id: number
  readonly file: string
}

/** The source with all of them in it, each of which does nothing until its number is the one that is switched on. */
export function withMutants(source: string, chosen: readonly Chosen[], runtime: string): string {
  const depth = ({ form }: Chosen) => (form === 'statement' ? 0 : 1)
  // A statement that is only one expression has the place of that expression, and is around it.
  const inner = chosen.toSorted(
    (a, b) => a.start - b.start || b.end - a.end || depth(a) - depth(b) || a.id - b.id,
  )
  return headed(imported('mutated', runtime), render(source, 0, source.length, inner))
}

/** The source with a note at the beginning of every function, the first time that it is come to. */
export function withNotes(source: string, file: string, runtime: string): string {
  const functions = new Places(source).functions.toSorted(byStart)
  let text = ''
  let at = 0
  for (const [n, { start, name }] of functions.entries()) {
    text += `${source.slice(at, start)} ${flag(n)} ||= noted(${JSON.stringify(keyOf(file, name))});`
    at = start
  }
  // `var`: where modules import each other, a function may be called before its own has run.
  const flags = functions.length === 0 ? '' : `var ${functions.map((_, n) => flag(n)).join()};`
  return headed(imported('noted', runtime) + flags, text + source.slice(at))
}

const flag = (n: number) => `come_to_${n}`

/** How notes name a function. */
export function keyOf(file: string, name: string): string {
  return `${file} ${name}`
}

const byStart = (a: FunctionBody, b: FunctionBody) => a.start - b.start

/** On the first line of code, so that the numbers of lines stay. */
function headed(head: string, text: string): string {
  const at = text.startsWith('#!') ? text.indexOf('\n') + 1 : 0
  return text.slice(0, at) + head + text.slice(at)
}

function imported(name: string, runtime: string): string {
  return `import { ${name} } from ${JSON.stringify(runtime)};`
}

function render(source: string, start: number, end: number, within: readonly Chosen[]): string {
  let text = ''
  let at = start
  for (let i = 0; i < within.length; ) {
    const outer = within[i++]!
    const inner: Chosen[] = []
    while (i < within.length && within[i]!.start < outer.end) inner.push(within[i++]!)
    const now = render(source, outer.start, outer.end, inner)
    text += source.slice(at, outer.start) + switched(outer, now)
    at = outer.end
  }
  return text + source.slice(at, end)
}

function switched({ id, form, text }: Chosen, now: string): string {
  return form === 'expression'
    ? `(mutated(${id}) ? (${text}) : (${now}))`
    : `{ if (mutated(${id})) { ${text}\n} else { ${now}\n} }`
}
