import { wrongOption } from '../checks/place.js'
import { FdbError } from '../errors.js'
import { executeInstead, type NativeError } from '../kernel/index.js'
import { checkDescriptorName } from '../operator/held-descriptors.js'
import { successorCommand } from '../os/command-line.js'
import { FIRST_FD } from '../os/service-manager/passed-sockets.js'
import type { WantedDescriptor } from '../run/claimed-descriptors.js'
import { askService, IDEMPOTENT_RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addServiceOptions, type ServiceFlags } from './find-service.js'
import { parseListeners } from './named-listeners.js'
import { durationOption } from './options.js'

interface ExecFlags extends ServiceFlags {
  readonly exclusive?: true
  readonly nonBlocking?: true
  readonly nginx?: true
  readonly timeout: number
}

export function addExec(program: Command): void {
  addServiceOptions(program.command('exec'))
    .description('execute a program with listeners that a daemon (fd-broker serve) holds')
    .argument('<name[=address]...>', 'name of a held listener; with an address it is bound if missing')
    .option('--exclusive', 'exclude other processes')
    .option('--non-blocking', 'set O_NONBLOCK on listeners (systemd does not)')
    .option('--nginx', 'for nginx: also set NGINX=3;4; and --non-blocking')
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
    .notes(`This process becomes the program after -- (execve), with the same pid, descriptors 0, 1, 2, and the claimed ones from 3. The program finds them as
under systemd (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES) and under Server::Starter (SERVER_STARTER_PORT). When the program ends, the daemon keeps
the descriptors, and clients wait until the program is started again. With --service S the daemon holds them as S/NAME.`)
    .examples(
      'fd-broker exec --service shop web=tcp://0.0.0.0:8080 -- gunicorn app:app',
      "fd-broker exec --service edge http=tcp://0.0.0.0:80 https=tcp://0.0.0.0:443 --nginx -- nginx -g 'daemon off;'",
      'fd-broker exec --service shop web -- ./shop',
    )
    .action((_words: string[], flags: ExecFlags, command: Command) => exec(flags, command))
}

async function exec(flags: ExecFlags, command: Command): Promise<void> {
  const { names, argv } = splitCommand(command)
  const wanted = names.map(parseWanted)
  refuseDuplicates(wanted)
  const { claimForLife, claimedVariables } = await import('../run/claimed-descriptors.js')
  // Throws if the command is missing, before the daemon binds anything.
  successorCommand({ argv })
  const claiming = {
    service: flags.service,
    exclusive: flags.exclusive ?? false,
    nonBlocking: flags.nonBlocking ?? flags.nginx ?? false,
  }
  const claimed = await askService(flags, IDEMPOTENT_RETRY_CODES, (client, timeout) =>
    claimForLife(client, wanted, { ...claiming, timeoutMs: timeout }),
  )
  const numbers = claimed.map((_, index) => `${FIRST_FD + index};`).join('')
  const env = { ...claimedVariables(claimed), ...(flags.nginx && { NGINX: numbers }) }
  const start = successorCommand({ argv, env })
  const fds = claimed.map(({ fd }) => fd)
  try {
    executeInstead(start, fds, FIRST_FD)
  } catch (cause) {
    const { file } = start
    const why = `${file} cannot be executed (${(cause as NativeError).code}): check that it is a program for this machine, or a script whose first line names its interpreter`
    throw new FdbError('ERR_FDB_SPAWN', why, { cause, details: { file } })
  }
}

/** Separates the names before `--` from the program after it, which Commander does not. */
function splitCommand(command: Command): { names: readonly string[]; argv: readonly string[] } {
  const { rawArgs = [] } = command.parent as Command & { readonly rawArgs?: readonly string[] }
  const at = rawArgs.indexOf('--')
  const argv = at < 0 ? [] : rawArgs.slice(at + 1)
  const names = command.args.slice(0, command.args.length - argv.length)
  if (argv.length > 0 && names.length > 0) return { names, argv }
  return command.error(
    'error: give names or listeners for the program, and the program after -- : fd-broker exec NAME[=ADDRESS]... -- COMMAND [ARG...]',
  )
}

function parseWanted(text: string): WantedDescriptor {
  if (text.includes('=')) return parseListeners([text])[0]!
  checkDescriptorName(text)
  return { name: text, spec: null }
}

function refuseDuplicates(wanted: readonly WantedDescriptor[]): void {
  const names = new Set<string>()
  for (const { name } of wanted) {
    if (names.has(name)) throw wrongOption('name', name, 'each name once')
    names.add(name)
  }
}
