// @ts-check
import { minify, parse } from 'rolldown/utils'

/** Length from which lines are broken: a stack trace shows a useful position, and Node prints a whole line with an exception. */
const LINE_CHARACTERS = 160
/** esbuild's functions that evaluate a module once. Each takes an object with one method, named by the path of the module. */
const EVALUATORS = new Set(['__esm', '__commonJS'])
const EVALUATOR_MADE = /\b__(?:esm|commonJS)\s*=(?!=)/
/** The place where esbuild's function calls the method. */
const ONLY_METHOD = /\b(\w+)\[__getOwnPropNames\(\1\)\[0\]\]/g
/** The parts of a module's path that are left out of the name of its function. */
const NO_NAME = /^(?:build\/modules|node_modules)\/|\.[cm]?js$/g
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
  const { code: short, errors } = await minify(name, withClassNames(await withFunctions(name, code)), {
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
  return `${inLines(ascii, ends(program))}\n`
}

/**
 * Makes a function of each module: `__esm(function $member$driver(){…})`. An object with a method of its own name, as esbuild writes it, gets a hidden
 * class of its own from V8, which took 4 % of a proxy's start. Stack traces and profiles show the name.
 *
 * @param {string} name of the file
 * @param {string} code
 */
async function withFunctions(name, code) {
  const { program } = await parse(name, code)
  let made = ''
  let from = 0
  for (const { object, path, method } of modules(program)) {
    const own = `$${path.replace(NO_NAME, '').replace(/[^\w$]/g, '$')}`
    // The name would hide a variable of this name from the module.
    if (code.includes(own)) throw new Error(`${name} has another ${own}`)
    const head = `${method.async ? 'async ' : ''}function ${own}`
    made += code.slice(from, object.start) + head + code.slice(method.start, method.end)
    from = object.end
  }
  const whole = made + code.slice(from)
  const called = whole.replace(ONLY_METHOD, '$1')
  if (called === whole && EVALUATOR_MADE.test(code))
    throw new Error(`${name} evaluates its modules in an unknown way`)
  return called
}

/**
 * Returns the modules in the order of the code. A module contains no other. No generator: one for each node would take a fifth of the bundle's processor time.
 *
 * @param {any} node of the syntax
 * @param {{ object: any, path: string, method: any }[]} found
 */
function modules(node, found = []) {
  if (typeof node !== 'object' || node === null) return found
  const [object] = (EVALUATORS.has(node.callee?.name) && node.arguments) || []
  const [property, ...others] = object?.properties ?? []
  if (property?.method && others.length === 0) {
    found.push({ object, path: String(property.key.value ?? property.key.name), method: property.value })
    return found
  }
  for (const key in node) modules(node[key], found)
  return found
}

/** Gives classes their names back: within a class both names mean the class. @param {string} code */
function withClassNames(code) {
  let named = code
  for (const [, name] of code.matchAll(OWN_CLASS))
    named = named.replace(new RegExp(`(?<![\\w$])_${name}(?![\\w$])`, 'g'), () => String(name))
  return named
}

/**
 * Returns the positions at which a line can end.
 *
 * @param {any} node
 * @param {number[]} places
 */
function ends(node, places = []) {
  if (typeof node !== 'object' || node === null) return places
  for (const key in node) {
    const value = node[key]
    if (Array.isArray(value)) {
      for (const child of value) {
        if (LISTS.has(key) && typeof child?.start === 'number') places.push(child.start)
        ends(child, places)
      }
    } else ends(value, places)
  }
  return places
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
