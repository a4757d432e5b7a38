import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { InvalidArgumentError } from 'commander'
import { Backoff } from '../base/backoff.js'
import { FdbError } from '../errors.js'
import { closeAll, isOfNode, numbersOf, type OwnedFd, ownNumber } from '../kernel/index.js'
import { OperatorClient } from '../operator/client.js'
import { type DescriptorLease, type HeldDescriptor, serviceOfName } from '../operator/held-descriptors.js'
import { startRemedy, successorCommand } from '../os/command-line.js'
import { OtherProcess } from '../os/other-process.js'
import { type AnswerFlags, askService, RETRY_CODES } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { durationOption, parsePid } from './options.js'
import { print, table } from './output.js'

interface PutFlags extends AnswerFlags {
  descriptor: number
  pid?: string
  for?: number
  while?: string
  replace?: true
}

interface GetDescriptorFlags extends AnswerFlags {
  exclusive?: true
  remove?: true
}

/** The command must find its own pid in LISTEN_PID. Only the started process knows this pid: a shell sets it, then executes the command. */
const WITH_PID = ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh']
const ignore = () => {}
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const

export function addFd(program: Command): void {
  const fd = program
    .command('fd')
    .description('descriptors of any kind that a daemon (fd-broker serve) holds for other processes')
  addAskOptions(fd.command('list'))
    .description('show the held descriptors')
    .option('--watch', 'print the list after each change')
    .examples('fd-broker fd list --control /run/shop/broker.sock')
    .action(list)
  addAskOptions(fd.command('put'))
    .description('store a descriptor: an open file, pipe, device, socket, memory file …')
    .argument('<name>', 'name by which clients find it')
    .option('--descriptor <number>', 'number of the descriptor in its process', parseNumber, 0)
    .option('--pid <pid>', 'take the descriptor from this process (as fd-broker adopt does)')
    .addOption(
      durationOption('--for <duration>', 'hold the descriptor for this time; default: until it is removed'),
    )
    .option('--while <pid>', 'hold the descriptor until this process ends')
    .option('--replace', 'replace a descriptor of the same name')
    .examples(
      'fd-broker fd put --control /run/shop/broker.sock serial <>/dev/ttyS0',
      'fd-broker fd put --control /run/shop/broker.sock spool --descriptor 3 --for 1h 3>>/var/spool/shop',
    )
    .action(put)
  addAskOptions(fd.command('get'))
    .description('start a command with the descriptors, numbered from 3 (LISTEN_FDS)')
    .argument('<name>', 'one or several names, separated by commas')
    .argument('<command...>', 'command to start, after --')
    .option('--exclusive', 'exclude other processes')
    .option('--remove', 'the daemon closes its copies when the command has them')
    .examples('fd-broker fd get --control /run/shop/broker.sock --exclusive serial -- sh -c "cat <&3"')
    .action(get)
  addAskOptions(fd.command('watch'))
    .description('show the held descriptors, and again after each change')
    .examples('fd-broker fd watch --control /run/shop/broker.sock --json')
    .action((flags: AnswerFlags) => list({ ...flags, watch: true }))
  addAskOptions(fd.command('claim'))
    .description('claim a descriptor for a process until the process ends')
    .argument('<name>')
    .requiredOption('--while <pid>', 'the claim lasts while this process lives')
    .option('--shared', 'let other processes get the descriptor too')
    .examples('fd-broker fd claim --control /run/shop/broker.sock serial --while 4711')
    .action(claim)
  addAskOptions(fd.command('release'))
    .description('end the claim of a living process')
    .argument('<name>')
    .requiredOption('--while <pid>', 'the process that has the claim')
    .examples('fd-broker fd release --control /run/shop/broker.sock serial --while 4711')
    .action(release)
  addAskOptions(fd.command('remove'))
    .description('close the daemon’s descriptor; other processes keep their copies')
    .argument('<name>')
    .examples('fd-broker fd remove --control /run/shop/broker.sock serial')
    .action(remove)
}

/** Delays before `fd list --watch` connects again: a daemon that closes each connection would keep both busy. */
const RECONNECT = { firstMs: 50, longestMs: 1_000 }

async function list({ json, service, watch, ...flags }: AnswerFlags & { watch?: true }): Promise<void> {
  const show = (all: readonly HeldDescriptor[]) => {
    const held = service === undefined ? all : all.filter(({ name }) => serviceOfName(name) === service)
    print(json, held, () => listText(held))
  }
  if (!watch) {
    show(await askService(flags, RETRY_CODES, (client, timeout) => client.descriptors.list({ timeout })))
    return
  }
  let shown = ''
  const backoff = new Backoff(RECONNECT)
  for (;;) {
    using client = await OperatorClient.connect(flags.control, { timeout: flags.timeout })
    try {
      for await (const held of client.descriptors.watch({ timeout: flags.timeout })) {
        // The next daemon sends the list that this command has shown.
        const text = JSON.stringify(held)
        if (text !== shown) show(held)
        shown = text
        backoff.reset()
      }
    } catch (error) {
      // The daemon was upgraded, or has ended: then no process listens any more.
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_CHANNEL_CLOSED') throw error
    }
    await sleep(backoff.next())
  }
}

async function put(name: string, { descriptor, pid, replace, json, ...flags }: PutFlags): Promise<void> {
  if (flags.for !== undefined && flags.while !== undefined)
    throw new FdbError(
      'ERR_FDB_OPTION',
      'a descriptor is held --for a time or --while a process lives: give one of them',
    )
  const lease: DescriptorLease =
    flags.for !== undefined
      ? { ms: flags.for }
      : flags.while !== undefined
        ? { pid: parsePid('while', flags.while) }
        : 'forever'
  using fd = pid === undefined ? ownDescriptor(descriptor) : descriptorOf(parsePid('pid', pid), descriptor)
  await askService(flags, RETRY_CODES, (client, timeout) =>
    client.descriptors.put(name, fd, { lease, replace: replace ?? false, timeout }),
  )
  print(json, { ok: true, name }, `${name} is held\n`)
}

async function get(
  name: string,
  argv: string[],
  { exclusive, remove, ...flags }: GetDescriptorFlags,
): Promise<void> {
  const names = name.split(',')
  const [file = '', ...args] = [...WITH_PID, ...argv]
  // Throws if the command is missing, before the daemon gives anything away.
  successorCommand({ argv })
  const { timeout } = flags
  let child: ChildProcess | null = null
  for (const signal of FORWARDED)
    process.on(signal, () => {
      if (child === null) process.exit(128 + constants.signals[signal])
      child.kill(signal)
    })
  using client = await OperatorClient.connect(flags.control, { timeout })
  const fds: OwnedFd[] = []
  try {
    for (const each of names) fds.push(await client.descriptors.claim(each, { shared: !exclusive, timeout }))
    const env = { ...process.env, LISTEN_FDS: `${fds.length}`, LISTEN_FDNAMES: names.join(':') }
    const started = spawn(file, args, { stdio: ['inherit', 'inherit', 'inherit', ...numbersOf(fds)], env })
    child = started
    // A terminal signals this process and the command: the command decides whether to end.
    process.on('SIGINT', ignore).on('SIGQUIT', ignore)
    const ended = new Promise<number>((resolve, reject) => {
      started.once('error', (cause: NodeJS.ErrnoException) => reject(notStarted(file, cause)))
      started.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal!]))
    })
    // Until then the daemon's copies may be the only ones.
    await Promise.race([new Promise(resolve => started.once('spawn', resolve)), ended])
    if (exclusive && !remove) await Promise.race([claimFor(started, names, client, timeout), ended])
    if (remove) for (const each of names) await client.descriptors.remove(each, { timeout })
    closeAll(fds)
    process.exitCode = await ended
  } finally {
    closeAll(fds)
  }
}

function notStarted(file: string, cause: NodeJS.ErrnoException): FdbError {
  const { code = 'ERR_FDB_INTERNAL' } = cause
  const remedy = code === 'ENOENT' ? 'PATH must have its folder' : startRemedy(code)
  return new FdbError('ERR_FDB_SPAWN', `cannot start ${file} (${code}): ${remedy}`, { cause })
}

/**
 * Claims descriptors for a command that was started, so that the claims outlast this process and an upgrade of the daemon. Until then, and
 * if the daemon refuses, the claims of `client` exclude other processes.
 */
async function claimFor(
  command: ChildProcess,
  names: readonly string[],
  client: OperatorClient,
  timeout: number,
): Promise<void> {
  try {
    const options = { while: { pid: command.pid! }, timeout }
    for (const each of names) (await client.descriptors.claim(each, options)).close()
  } catch (error) {
    if (command.exitCode !== null || command.signalCode !== null) return
    process.stderr.write(
      `other processes are excluded only until this command or the daemon ends: ${(error as Error).message}\n`,
    )
  }
}

interface ClaimFlags extends AnswerFlags {
  while: string
  shared?: true
}

async function claim(name: string, { json, shared, while: who, ...flags }: ClaimFlags): Promise<void> {
  const pid = parsePid('while', who)
  const options = { while: { pid }, shared: shared ?? false }
  const fd = await askService(flags, RETRY_CODES, (client, timeout) =>
    client.descriptors.claim(name, { ...options, timeout }),
  )
  fd.close()
  print(json, { ok: true, name, pid }, `${name} is claimed by process ${pid}\n`)
}

async function release(name: string, { json, while: who, ...flags }: ClaimFlags): Promise<void> {
  const pid = parsePid('while', who)
  await askService(flags, RETRY_CODES, (client, timeout) =>
    client.descriptors.release(name, { pid, timeout }),
  )
  print(json, { ok: true, name, pid }, `${name} is not claimed by process ${pid} any more\n`)
}

async function remove(name: string, { json, ...flags }: AnswerFlags): Promise<void> {
  await askService(flags, RETRY_CODES, (client, timeout) => client.descriptors.remove(name, { timeout }))
  print(json, { ok: true, name }, `${name} is not held any more\n`)
}

function ownDescriptor(number: number): OwnedFd {
  if (isOfNode(number))
    throw new FdbError(
      'ERR_FDB_OPTION',
      number === 0
        ? 'this command was given no descriptor 0, because its stdin is closed or is /dev/null for reading and writing: redirect stdin (</dev/ttyS0), or give --descriptor'
        : `this command was given no descriptor ${number}: the number belongs to its own runtime. Redirect the descriptor (${number}</dev/ttyS0), or take it from a process by --pid`,
    )
  try {
    return ownNumber(number, `descriptor ${number}`)
  } catch (cause) {
    throw new FdbError('ERR_FDB_OPTION', `this command was given no descriptor ${number}`, { cause })
  }
}

function descriptorOf(pid: number, number: number): OwnedFd {
  using other = OtherProcess.of(pid)
  return other.duplicate(number, `descriptor ${number} of process ${pid}`)
}

function parseNumber(text: string): number {
  if (/^\d{1,7}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('Give the number of a descriptor.')
}

function listText(held: readonly HeldDescriptor[]): string {
  const rows = held.map(({ name, type, address, pid, until, whilePid, claimedBy, users }) => [
    name,
    address ?? type,
    pid,
    until ?? (whilePid === null ? 'for good' : `while ${whilePid || 'a process'} lives`),
    claimedBy ?? users?.map(user => user.pid || 'another').join(', '),
  ])
  return `${table(['NAME', 'WHAT', 'PUT BY', 'HELD', 'CLAIMED BY'], rows).join('\n')}\n`
}
