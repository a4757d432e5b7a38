import type { Command, Option } from 'commander'

/** The kind of value that follows an option, for a shell that completes it. */
export type ValueKind = 'none' | 'file' | 'service' | 'other' | readonly string[]

interface OutlinedOption {
  /** `-h`, `--help`. */
  readonly names: readonly string[]
  /** As the help has it: `--control <path>`. */
  readonly flags: string
  readonly description: string
  readonly value: ValueKind
}

/** A command as its definition describes it: what completion and manual pages are made of. */
export interface Outline {
  /** From the program's name on: `fd-broker state show`. */
  readonly path: string
  readonly name: string
  readonly description: string
  /** Its arguments as the help has them. */
  readonly usage: string
  readonly options: readonly OutlinedOption[]
  readonly commands: readonly Outline[]
  /** The part of its help behind the options: examples. */
  readonly after: string
  /** Values that its arguments may have. */
  readonly words: readonly string[]
}

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

/** This one and all below it. */
export function allOf(outline: Outline): Outline[] {
  return [outline, ...outline.commands.flatMap(allOf)]
}
