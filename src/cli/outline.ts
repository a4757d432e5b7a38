import type { Command, Option } from 'commander'

/** The kind of value that an option takes, for shell completion. */
export type ValueKind = 'none' | 'file' | 'service' | 'other' | readonly string[]

interface OutlinedOption {
  /** For example `-h` and `--help`. */
  readonly names: readonly string[]
  /** As in the help: `--control <path>`. */
  readonly flags: string
  readonly description: string
  readonly value: ValueKind
}

/** A command's definition, from which completion and manual pages are generated. */
export interface Outline {
  /** The whole path: `fd-broker state show`. */
  readonly path: string
  readonly name: string
  readonly description: string
  readonly usage: string
  readonly options: readonly OutlinedOption[]
  readonly commands: readonly Outline[]
  /** The help after the options: explanations and examples. */
  readonly after: string
  /** Values that the arguments accept. */
  readonly words: readonly string[]
  /** Whether an argument is a path. */
  readonly takesFiles: boolean
}

const FILE_ARGUMENTS: ReadonlySet<string> = new Set(['program', 'folder', 'from', 'to'])
const FILES = /<(?:path|file|folder|new|config)>/

export function outlineOf(command: Command, above = ''): Outline {
  const path = `${above} ${command.name()}`.trim()
  const help = command.createHelp()
  return {
    path,
    name: command.name(),
    description: command.description(),
    usage: command.usage(),
    after: afterHelp(command),
    words: command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices),
    takesFiles: command.registeredArguments.some(argument => FILE_ARGUMENTS.has(argument.name())),
    options: help.visibleOptions(command).map(option => ({
      names: [option.short, option.long].filter(name => name !== undefined),
      flags: option.flags,
      description: help.optionDescription(option),
      value: kindOf(option),
    })),
    commands: help
      .visibleCommands(command)
      .map(below => outlineOf(below, path))
      .filter(({ name }) => name !== 'help'),
  }
}

function kindOf({ argChoices, flags, long, required, optional }: Option): ValueKind {
  if (argChoices !== undefined) return argChoices
  if (!required && !optional) return 'none'
  if (long === '--service') return 'service'
  return FILES.test(flags) ? 'file' : 'other'
}

function afterHelp(command: Command): string {
  let text = ''
  command.configureOutput({ writeOut: part => (text += part) }).outputHelp()
  return text.slice(command.helpInformation().length).trim()
}

/** Returns the command and all its subcommands. */
export function allOf(outline: Outline): Outline[] {
  return [outline, ...outline.commands.flatMap(allOf)]
}
