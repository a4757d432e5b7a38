import type { Command, Option } from 'commander'

/** Words that are not said in full: `…`, `COMMAND …`. */
const LEFT_OUT = /^(?:…|\.\.\.)$/

/** The commands `fd-broker …` of a block for a shell, without comments, heredocs and what is not ours; each in its words. */
export function commandLines(text: string): string[][] {
  const console = /^\$ /m.test(text)
  return text
    .replace(/ <<'(\w+)'\n.*?^\1$/gms, '')
    .replace(/\\\n/g, ' ')
    .split('\n')
    .filter(line => !console || line.startsWith('$ '))
    .flatMap(line => simpleCommands(words(line.replace(/^\$ /, ''))))
    .flatMap(ours)
}

/** Returns the fault of a command line; null if the program understands it. */
export function wrongWith(program: Command, line: readonly string[]): string | null {
  let command = program
  const rest = [...line]
  while (command.commands.length > 0 && rest[0] !== undefined && !rest[0].startsWith('-')) {
    const name = rest.shift()!
    if (/^[A-Z]+$/.test(name) || LEFT_OUT.test(name)) return null
    const next = command.commands.find(each => each.name() === name)
    if (!next) return `there is no command ${name}`
    command = next
  }
  let count = 0
  let behind = 0
  while (rest.length > 0) {
    const word = rest.shift()!
    if (LEFT_OUT.test(word)) return null
    if (word === '--') {
      behind = rest.length
      break
    }
    if (!word.startsWith('-') || word === '-') {
      count++
      continue
    }
    const [flag = '', value] = word.split('=', 2)
    if (flag === '--help' || flag === '--version') return null
    const option = command.options.find(each => each.long === flag || each.short === flag)
    if (!option) return `${command.name()} has no option ${flag}`
    if (takesValue(option) && value === undefined && rest.shift() === undefined) return `${flag} has no value`
    if (!takesValue(option) && value !== undefined) return `${flag} takes no value`
  }
  const most = command.registeredArguments.some(({ variadic }) => variadic)
    ? Number.POSITIVE_INFINITY
    : command.registeredArguments.length
  if (count + behind > most) return `${command.name()} takes ${most} arguments, not ${count + behind}`
  return null
}

function takesValue({ required, optional }: Option): boolean {
  return required || optional
}

/** Words as a shell has them, operators among them; a comment ends them. */
function words(line: string): string[] {
  const found: string[] = []
  for (const [, comment, operator, word] of line.matchAll(
    /(?:^|(?<=\s))(#.*)|(&&|\|\||[;&|]|<>|\d?>>?)|((?:[^\s'"#;&|<>]|'[^']*'|"[^"]*"|(?<=\S)#)+)/g,
  )) {
    if (comment !== undefined) break
    found.push(operator ?? word!.replace(/^'(.*)'$/s, '$1').replace(/^"(.*)"$/s, '$1'))
  }
  return found
}

/** Between the operators; what is read from or written to a file is left out. */
function simpleCommands(line: readonly string[]): string[][] {
  const commands: string[][] = [[]]
  for (let i = 0; i < line.length; i++) {
    const word = line[i]!
    if (/^(?:&&|\|\||[;&|])$/.test(word)) commands.push([])
    else if (/^(?:<>|\d?>>?)$/.test(word)) i++
    else commands.at(-1)!.push(word)
  }
  return commands
}

/** `npx fd-broker upgrade`, `docker exec shop fd-broker upgrade`, `sudo fd-broker …`: from behind the command's name; also a second one, which `run` starts. */
function ours(command: readonly string[]): string[][] {
  const at = command.findIndex(word => word === 'fd-broker' || word.endsWith('/fd-broker'))
  if (at < 0 || /^(?:docker|npm|cd|git|cp)$/.test(command[at - 1] ?? '')) return []
  const rest = command.slice(at + 1)
  if (command[0] === 'docker' && (command[1] === 'run' || command[1] === 'build')) return []
  const behind = rest.indexOf('--')
  return [rest, ...(behind < 0 ? [] : ours(rest.slice(behind + 1)))]
}
