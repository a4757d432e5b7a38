// @ts-check
import { minify, parse } from 'rolldown/utils'

/** Length from which lines are broken: a stack trace shows a useful position, and Node prints a whole line with an exception. */
const LINE_CHARACTERS = 160
/** The path of a module, which esbuild makes the name of the function around the module. The name is in stack traces and profiles. */
const MODULE = /\b(__esm|__commonJS)\(\s*\{\s*"(?:build\/modules\/|node_modules\/)?([^"]*?)(?:\.[cm]?js)?"/g
/** A class that uses its own name: esbuild makes a variable of the class, and gives the class another name, with a line before it. */
const OWN_CLASS = /\b([\w$]+)\s*=\s*class _\1\b/g
/** Lists of syntax nodes. A line can end before each node, because a bracket, comma, semicolon or colon precedes it. */
const LISTS = new Set(['arguments', 'body', 'cases', 'consequent', 'elements', 'properties'])

/**
 * Minifies a program, which removes a quarter of its bytes. Functions, classes and properties keep their names, so that stack traces are
 * readable.
 *
 * @param {string} name of the file
 * @param {string} code
 */
export async function shorten(name, code) {
  const module = !name.endsWith('.cjs')
  const { code: short, errors } = await minify(name, withClassNames(code.replace(MODULE, '$1({"$2"')), {
    module,
    // esbuild has already removed unused code.
    compress: { target: 'es2023', unused: false, keepNames: { function: true, class: true } },
    mangle: { toplevel: true, keepNames: true },
    codegen: { removeWhitespace: true },
  })
  if (errors.length > 0) throw new Error(`${name} cannot be shortened: ${errors.map(String).join('; ')}`)
  const ascii = short.replace(
    /[^\0-\x7f]/g,
    letter => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  const { program } = await parse(name, ascii, { sourceType: module ? 'module' : 'commonjs' })
  return `${inLines(ascii, [...ends(program)])}\n`
}

/** Gives classes their names back: within a class both names mean the class. @param {string} code */
function withClassNames(code) {
  let named = code
  for (const [, name] of code.matchAll(OWN_CLASS))
    named = named.replace(new RegExp(`(?<![\\w$])_${name}(?![\\w$])`, 'g'), () => String(name))
  return named
}

/**
 * Yields the positions at which a line can end.
 *
 * @param {unknown} node
 * @returns {Generator<number>}
 */
function* ends(node) {
  if (typeof node !== 'object' || node === null) return
  for (const [key, value] of Object.entries(node)) {
    if (Array.isArray(value)) {
      for (const child of value) {
        if (LISTS.has(key) && typeof child?.start === 'number') yield child.start
        yield* ends(child)
      }
    } else yield* ends(value)
  }
}

/** Breaks the code into lines at some of the positions. @param {string} code @param {number[]} places in any order */
function inLines(code, places) {
  const lines = []
  let from = 0
  let to = 0
  for (const place of places.sort((a, b) => a - b)) {
    if (place - from > LINE_CHARACTERS && to > from) {
      lines.push(code.slice(from, to))
      from = to
    }
    to = place
  }
  lines.push(code.slice(from))
  return lines.join('\n')
}
