import { type Command as AnyCommand, Argument, type Option } from 'commander'
import type { Command } from './command.js'

const SHELLS = { bash, zsh, fish } as const

/** Adds the command. `wholeProgram` resolves with the program and all its commands. */
export function addCompletion(program: Command, wholeProgram: () => Promise<AnyCommand>): void {
  program
    .command('completion')
    .description('print the completion script for a shell')
    .addArgument(new Argument('<shell>').choices(Object.keys(SHELLS)))
    .notes('The Debian package contains these scripts.')
    .examples(
      'source <(fd-broker completion bash)                                       # in ~/.bashrc',
      'source <(fd-broker completion zsh)                                        # in ~/.zshrc, after compinit',
      'fd-broker completion fish > ~/.config/fish/completions/fd-broker.fish',
    )
    .action(async (shell: keyof typeof SHELLS) => {
      process.stdout.write(SHELLS[shell](outlineOf(await wholeProgram())))
    })
}

/** Shell code that lists service names by their control sockets. */
const SERVICES = `for each in /run/fd-broker/*.sock "$XDG_RUNTIME_DIR"/fd-broker/*.sock "\${TMPDIR:-/tmp}/fd-broker-$(id -u)"/*.sock; do test -S "$each" && basename "\${each%.run.sock}" .sock; done 2>/dev/null`

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`
const isList = (value: ValueKind): value is readonly string[] => Array.isArray(value)

/** Returns the branches of a shell `case` that step into subcommands: `'fd-broker state show') … ;;`. */
function steps(root: Outline, assign: (path: string) => string): string {
  return allOf(root)
    .filter(({ path }) => path !== root.path)
    .map(({ path }) => `      ${quoted(path)}) ${assign(path)} ;;\n`)
    .join('')
}

/** Yields a pattern `path option` for each option that takes a value. */
function* valuesOf(root: Outline): Generator<{ readonly pattern: string; readonly value: ValueKind }> {
  for (const { path, options } of allOf(root))
    for (const { names, value } of options)
      if (value !== 'none') yield { pattern: names.map(name => quoted(`${path} ${name}`)).join('|'), value }
}

function bash(root: Outline): string {
  const words = (list: readonly string[]) => `COMPREPLY=($(compgen -W ${quoted(list.join(' '))} -- "$cur"))`
  const complete = (value: ValueKind) => {
    if (isList(value)) return words(value)
    if (value === 'file') return 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur"))'
    return value === 'service' ? `COMPREPLY=($(compgen -W "$(${SERVICES})" -- "$cur"))` : ':'
  }
  return `# bash completion for fd-broker; made by: fd-broker completion bash
_fd_broker() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at=${quoted(root.name)} i each
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ \${COMP_WORDS[i]} == -- ]]; then
      compopt -o default
      return
    fi
    case "$at \${COMP_WORDS[i]}" in
${steps(root, path => `at=${quoted(path)}`)}    esac
  done
  case "$at $prev" in
${[...valuesOf(root)].map(({ pattern, value }) => `    ${pattern}) ${complete(value)}; return ;;\n`).join('')}  esac
  case $at in
${allOf(root)
  .map(({ path, options, commands, words: own, takesFiles }) => {
    const list = [...commands.map(({ name }) => name), ...own, ...options.flatMap(({ names }) => names)]
    const files = takesFiles ? '; compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur"))' : ''
    return `    ${quoted(path)}) ${words(list)}${files} ;;\n`
  })
  .join('')}  esac
}
complete -F _fd_broker fd-broker
`
}

function zsh(root: Outline): string {
  const complete = (value: ValueKind) => {
    if (isList(value)) return `compadd -- ${value.map(quoted).join(' ')}`
    if (value === 'file') return '_files'
    return value === 'service' ? `compadd -- $(${SERVICES})` : "_message 'a value'"
  }
  const described = (name: string, description: string) =>
    quoted(`${name.replaceAll(':', '\\:')}:${description}`)
  const list = ({ path, options, commands, words, takesFiles }: Outline) => {
    const all = options.flatMap(({ names, description }) => names.map(name => described(name, description)))
    const below = commands.map(({ name, description }) => described(name, description))
    const parts = [
      ...(below.length > 0 ? [`list=(${below.join(' ')}); _describe -t commands command list`] : []),
      ...(words.length > 0 ? [`compadd -- ${words.map(quoted).join(' ')}`] : []),
      ...(takesFiles ? [complete('file')] : []),
      `list=(${all.join(' ')}); _describe -o -t options option list`,
    ]
    return `    ${quoted(path)}) ${parts.join('; ')} ;;\n`
  }
  return `#compdef fd-broker
# zsh completion for fd-broker; made by: fd-broker completion zsh
_fd_broker() {
  local at=${quoted(root.name)} each i
  local -a list
  setopt local_options null_glob
  for ((i = 2; i < CURRENT; i++)); do
    if [[ $words[i] == -- ]]; then
      shift $i words
      (( CURRENT -= i ))
      _normal
      return
    fi
    case "$at $words[i]" in
${steps(root, path => `at=${quoted(path)}`)}    esac
  done
  case "$at $words[CURRENT-1]" in
${[...valuesOf(root)].map(({ pattern, value }) => `    ${pattern}) ${complete(value)}; return ;;\n`).join('')}  esac
  case $at in
${allOf(root).map(list).join('')}  esac
}
if [[ $funcstack[1] == _fd_broker ]]; then _fd_broker "$@"; else compdef _fd_broker fd-broker; fi
`
}

function fish(root: Outline): string {
  const escaped = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const line = (path: string, rest: string) =>
    `complete -c fd-broker -n ${escaped(`__fd_broker_at ${escaped(path)}`)} ${rest}\n`
  const value = (kind: ValueKind) => {
    if (kind === 'none') return ''
    if (isList(kind)) return ` -x -a ${escaped(kind.join(' '))}`
    if (kind === 'service') return ` -x -a ${escaped(`(sh -c ${escaped(SERVICES)})`)}`
    return kind === 'file' ? ' -r -F' : ' -x'
  }
  const name = (long: string) => (long.startsWith('--') ? `-l ${long.slice(2)}` : `-s ${long.slice(1)}`)
  return `# fish completion for fd-broker; made by: fd-broker completion fish
function __fd_broker_at
  set -l at ${escaped(root.name)}
  for word in (commandline -opc)[2..]
    test "$word" = --; and return 1
    switch "$at $word"
${allOf(root)
  .filter(({ path }) => path !== root.path)
  .map(({ path }) => `      case ${escaped(path)}\n        set at ${escaped(path)}\n`)
  .join('')}    end
  end
  test "$at" = "$argv[1]"
end
complete -c fd-broker -n 'not contains -- -- (commandline -opc)' -f
${allOf(root)
  .flatMap(({ path, options, commands, words, takesFiles }) => [
    ...(takesFiles ? [line(path, '-F')] : []),
    ...words.map(word => line(path, `-a ${escaped(word)}`)),
    ...commands.map(({ name, description }) => line(path, `-a ${escaped(name)} -d ${escaped(description)}`)),
    ...options.map(({ names, description, value: kind }) =>
      line(path, `${names.map(name).join(' ')}${value(kind)} -d ${escaped(description)}`),
    ),
  ])
  .join('')}`
}

/** The kind of value that an option takes, for shell completion. */
type ValueKind = 'none' | 'file' | 'service' | 'other' | readonly string[]

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
  /** The help text after the options: explanations and examples. */
  readonly after: string
  /** Values that the arguments accept. */
  readonly words: readonly string[]
  /** Whether an argument is a path. */
  readonly takesFiles: boolean
}

const FILE_ARGUMENTS: ReadonlySet<string> = new Set(['program', 'folder', 'from', 'to'])
const FILES = /<(?:path|file|folder|new|config)>/

export function outlineOf(command: AnyCommand, above = ''): Outline {
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
      value: valueKind(option),
    })),
    commands: help
      .visibleCommands(command)
      .map(below => outlineOf(below, path))
      .filter(({ name }) => name !== 'help'),
  }
}

function valueKind({ argChoices, flags, long, required, optional }: Option): ValueKind {
  if (argChoices !== undefined) return argChoices
  if (!required && !optional) return 'none'
  if (long === '--service') return 'service'
  return FILES.test(flags) ? 'file' : 'other'
}

function afterHelp(command: AnyCommand): string {
  let text = ''
  command.configureOutput({ writeOut: part => (text += part) }).outputHelp()
  return text.slice(command.helpInformation().length).trim()
}

/** Returns the command and all its subcommands. */
export function allOf(outline: Outline): Outline[] {
  return [outline, ...outline.commands.flatMap(allOf)]
}
