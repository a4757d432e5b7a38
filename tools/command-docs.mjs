// @ts-check
// `node tools/command-docs.mjs` (after the build): makes docs/commands.md of the commands in src/cli.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('..', import.meta.url)
const BUILT = 'build/modules/cli/program.js'
/** An option that as many commands have, with the same words, is explained once. */
const COMMON = 4

/**
 * A command as commander has it.
 *
 * @typedef {object} Described
 * @property {() => string} name
 * @property {() => string} description
 * @property {() => string} usage
 * @property {readonly Described[]} commands
 * @property {readonly DescribedOption[]} options
 * @property {readonly DescribedArgument[]} registeredArguments
 */
/** @typedef {{ readonly flags: string, readonly description: string, readonly hidden: boolean, readonly mandatory: boolean, readonly defaultValue?: unknown, readonly defaultValueDescription?: string }} DescribedOption */
/** @typedef {{ readonly description: string, name: () => string }} DescribedArgument */

/**
 * The text of docs/commands.md.
 *
 * @param {Described} program
 * @param {Readonly<Record<number, string>>} exitCodes
 */
export function commandDocs(program, exitCodes) {
  const all = leaves(program)
  const shared = sharedOptions(all.map(({ command }) => command))
  return `<!-- Made by tools/command-docs.mjs from the commands in src/cli. -->
# Commands

\`fd-broker COMMAND --help\` has examples. [How a command finds the service](systemd.md#commands)

Exit codes: ${Object.entries(exitCodes)
    .map(([code, meaning]) => `${code} ${meaning}`)
    .join('; ')}. [More](systemd.md#commands)

Options of many commands; below they are named only:

${[...shared.values()].map(line).join('\n')}
${all.map(({ path, command }) => section(path, command, shared)).join('')}`
}

/**
 * Commands without commands of their own, by their whole name.
 *
 * @param {Described} command
 * @param {string} before
 * @returns {{ path: string, command: Described }[]}
 */
function leaves(command, before = '') {
  const path = `${before}${command.name()}`
  const below = command.commands.filter(each => each.name() !== 'help')
  if (below.length === 0) return [{ path, command }]
  return below.flatMap(each => leaves(each, `${path} `))
}

/** @param {readonly Described[]} commands */
function sharedOptions(commands) {
  /** @type {Map<string, { option: DescribedOption, count: number }>} */
  const counted = new Map()
  for (const option of commands.flatMap(visible)) {
    const { count } = counted.get(line(option)) ?? { count: 0 }
    counted.set(line(option), { option, count: count + 1 })
  }
  const often = [...counted].filter(([, { count }]) => count >= COMMON)
  /** @type {Map<string, DescribedOption>} */
  const shared = new Map()
  for (const [key, { option }] of often.sort(([, a], [, b]) => b.count - a.count))
    if (![...shared.values()].some(({ flags }) => flags === option.flags)) shared.set(key, option)
  return shared
}

/** @param {Described} command */
function visible({ options }) {
  return options.filter(({ hidden }) => !hidden)
}

/**
 * @param {string} path
 * @param {Described} command
 * @param {ReadonlyMap<string, DescribedOption>} shared
 */
function section(path, command, shared) {
  const options = visible(command)
  const own = options.filter(option => !shared.has(line(option)))
  const others = options.filter(option => shared.has(line(option)))
  const named = others.map(({ flags }) => `\`${long(flags)}\``).join(', ')
  const lines = [
    ...command.registeredArguments
      .filter(({ description }) => description !== '')
      .map(argument => `- \`${argument.name()}\`: ${markdown(argument.description)}`),
    ...own.map(line),
    ...(named === '' ? [] : [`- ${named}`]),
  ]
  const list = lines.length === 0 ? '' : `\n${lines.join('\n')}\n`
  const usage = command.usage().replace(/\[options\] ?/, '')
  return `\n## \`${path} ${usage}`.trimEnd() + `\`\n\n${markdown(sentence(command.description()))}\n${list}`
}

/** @param {string} text */
function sentence(text) {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`
}

/** @param {string} flags */
function long(flags) {
  return /--[\w-]+/.exec(flags)?.[0] ?? flags
}

/** @param {DescribedOption} option */
function line({ flags, description, mandatory, defaultValue, defaultValueDescription }) {
  const given = defaultValueDescription ?? (Array.isArray(defaultValue) ? undefined : defaultValue)
  const byDefault = given === undefined || given === false ? '' : ` (default: ${given})`
  return `- \`${flags}\`: ${markdown(description)}${byDefault}${mandatory && given === undefined ? ' (needed)' : ''}`
}

/** @param {string} text */
function markdown(text) {
  return text.replaceAll('\n', ' ').replaceAll('<', '&lt;').replaceAll('*', '\\*')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { EXIT_CODES, wholeProgram } = await import(new URL(BUILT, root).href)
  writeFileSync(new URL('docs/commands.md', root), commandDocs(await wholeProgram(), EXIT_CODES))
}
