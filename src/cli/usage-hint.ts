/** Adds to an error of Commander what the user probably meant. `args`: the command line without node and script. */
export function withHint(error: string, args: readonly string[]): string {
  const hint = hintFor(error, args)
  return hint === null ? error : `${error.trimEnd().replace(/\.$/, '')}: ${hint}\n`
}

function hintFor(error: string, args: readonly string[]): string | null {
  const [command = '', ...rest] = args
  const [word] = rest
  if (command === 'start') return startHint(/^error: unknown option '([^']+)'/.exec(error)?.[1], rest)
  if (word === undefined || word.startsWith('-')) return null
  if (command === 'proxy' && /^error: (?:required option '--config|too many)/.test(error))
    return `give the file as --config ${word}`
  if (SERVICE_COMMANDS.has(command) && error.startsWith('error: too many arguments'))
    return `name the service by --service ${word}`
  return null
}

/** Commands without arguments that find their service by `--service`. */
const SERVICE_COMMANDS: ReadonlySet<string> = new Set(['status', 'stop', 'reload', 'rollback', 'logs'])

function startHint(option: string | undefined, words: readonly string[]): string | null {
  if (option === undefined) return null
  const at = words.findIndex(word => word === option || word.startsWith(`${option}=`))
  const isNodes = words.slice(0, at).every(word => word.startsWith('-'))
  if (!isNodes) return 'put the options of the program after --'
  // By NODE_OPTIONS this command would open the inspector too, at the same port.
  if (option.startsWith('--inspect')) return 'kill -USR1 PID opens the inspector of a running program'
  return `set an option of Node in the environment: NODE_OPTIONS='${words[at] ?? option}'`
}
