// @ts-check
// `npm run command-docs` (after the build): generates docs/commands.md from the commands in src/cli.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('..', import.meta.url)
const BUILT = 'build/modules/cli/'
/** An option that this many commands have, with the same description, is explained once. */
const COMMON = 3
/** Options that select the service. A command that has all of them does not list them. */
const SERVICE = ['--control <path>', '--service <name>', '--pid-file <file>']

/**
 * The properties of commander's Command that this file reads.
 *
 * @typedef {object} Described
 * @property {() => string} name
 * @property {() => string} description
 * @property {() => string} usage
 * @property {readonly Described[]} commands
 * @property {() => { visibleCommands: (command: any) => Described[] }} createHelp
 * @property {readonly DescribedOption[]} options
 * @property {readonly DescribedArgument[]} registeredArguments
 */
/** @typedef {{ readonly flags: string, readonly description: string, readonly hidden: boolean, readonly mandatory: boolean, readonly defaultValue?: unknown, readonly defaultValueDescription?: string }} DescribedOption */
/** @typedef {{ readonly description: string, name: () => string }} DescribedArgument */

/**
 * Returns the text of docs/commands.md.
 *
 * @param {Described} program
 * @param {Readonly<Record<number, string>>} exitCodes
 */
export function commandDocs(program, exitCodes) {
  const groups = below(program)
  const shared = sharedOptions(groups.flatMap(group => leaves(group).map(({ command }) => command)))
  const codes = Object.entries(exitCodes).map(([code, meaning]) => `${code} ${meaning}`)
  return `<!-- Made by tools/command-docs.mjs from the commands in src/cli. -->
# Commands

\`fd-broker COMMAND --help\` has examples. [How a command finds the service](operating.md). Defaults are in brackets.

Exit codes: ${codes.join('; ')}. [More](operating.md#exit-codes)

These options are explained only here:

${[...shared.values()].map(line).join('\n')}

These commands have the first three options, which are not listed there: ${groups.flatMap(asksService(shared)).join(', ')}.
${groups.map(group => section(group, shared)).join('')}`
}

/** @param {Described} command */
function below(command) {
  return command
    .createHelp()
    .visibleCommands(command)
    .filter(each => each.name() !== 'help')
}

/**
 * Returns the subcommands of a group with their names; for a command without subcommands itself, with an empty name.
 *
 * @param {Described} group
 */
function leaves(group) {
  const within = below(group)
  if (within.length === 0) return [{ name: '', command: group }]
  return within.map(command => ({ name: command.name(), command }))
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
 * @param {Described} group
 * @param {ReadonlyMap<string, DescribedOption>} shared
 */
function section(group, shared) {
  const commands = leaves(group)
  const everywhere = [...shared.keys()].filter(key =>
    commands.every(({ command }) => visible(command).some(option => line(option) === key)),
  )
  const name = `fd-broker ${group.name()}`
  if (commands.length === 1 && commands[0]?.name === '')
    return `\n## \`${called(name, group)}\`\n\n${sentence(group.description())}\n${list(group, shared, [])}`
  const askAll = commands.every(({ command }) => serviceOptions(command, shared).length > 0)
  const inAll = everywhere.flatMap(key => shared.get(key) ?? [])
  const all = named(inAll.filter(({ flags }) => !askAll || !SERVICE.includes(flags)))
  const each = commands.map(
    ({ name, command }) =>
      `\n**\`${called(name, command)}\`** ${sentence(command.description())}\n${list(command, shared, everywhere)}`,
  )
  return `\n## \`${name}\`\n${all === '' ? '' : `\nAll of these have ${all}.\n`}${each.join('')}`
}

/**
 * Returns a function that formats a group whose commands have the options {@link SERVICE}: its name, and the commands without them. The
 * function returns an empty list if no command has them.
 *
 * @param {ReadonlyMap<string, DescribedOption>} shared
 * @returns {(group: Described) => string[]}
 */
function asksService(shared) {
  return group => {
    const commands = leaves(group)
    const others = commands.filter(({ command }) => serviceOptions(command, shared).length === 0)
    if (others.length === commands.length) return []
    const but = others.length === 0 ? '' : ` (except ${others.map(({ name }) => name).join(', ')})`
    return [`\`${group.name()}\`${but}`]
  }
}

/**
 * Returns the options {@link SERVICE} of a command; an empty list if it lacks one.
 *
 * @param {Described} command
 * @param {ReadonlyMap<string, DescribedOption>} shared
 */
function serviceOptions(command, shared) {
  const found = visible(command).filter(option => SERVICE.includes(option.flags) && shared.has(line(option)))
  return found.length === SERVICE.length ? found : []
}

/**
 * @param {string} name
 * @param {Described} command
 */
function called(name, command) {
  return `${name} ${command.usage().replace(/\[options\] ?/, '')}`.trimEnd()
}

/**
 * @param {Described} command
 * @param {ReadonlyMap<string, DescribedOption>} shared
 * @param {readonly string[]} listed options that the group's section already lists
 */
function list(command, shared, listed) {
  const options = visible(command)
  const unlisted = new Set([...listed, ...serviceOptions(command, shared).map(line)])
  const others = named(options.filter(option => shared.has(line(option)) && !unlisted.has(line(option))))
  const lines = [
    ...command.registeredArguments
      .filter(({ description }) => description !== '')
      .map(argument => `- \`${argument.name()}\`: ${markdown(argument.description)}`),
    ...options.filter(option => !shared.has(line(option))).map(line),
    ...(others === '' ? [] : [`- ${others}`]),
  ]
  return lines.length === 0 ? '' : `\n${lines.join('\n')}\n`
}

/** @param {readonly DescribedOption[]} options */
function named(options) {
  return options.map(({ flags }) => `\`${/--[\w-]+/.exec(flags)?.[0] ?? flags}\``).join(', ')
}

/** @param {string} text */
function sentence(text) {
  return `${text.slice(0, 1).toUpperCase()}${markdown(text.slice(1))}.`
}

/** @param {DescribedOption} option */
function line({ flags, description, mandatory, defaultValue, defaultValueDescription }) {
  const given = defaultValueDescription ?? (Array.isArray(defaultValue) ? undefined : defaultValue)
  const byDefault = given === undefined || given === false ? '' : ` (${given})`
  return `- \`${flags}\`: ${markdown(description)}${byDefault}${mandatory && given === undefined ? ' (required)' : ''}`
}

/** @param {string} text */
function markdown(text) {
  return text.replaceAll('\n', ' ').replace('(default: ', '(').replaceAll('<', '&lt;').replaceAll('*', '\\*')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { wholeProgram } = await import(new URL(`${BUILT}program.js`, root).href)
  const { EXIT_CODES } = await import(new URL(`${BUILT}output.js`, root).href)
  writeFileSync(new URL('docs/commands.md', root), commandDocs(await wholeProgram(), EXIT_CODES))
}
