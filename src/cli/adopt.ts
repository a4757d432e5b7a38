import { FdbError } from '../errors.js'
import { closeAll } from '../kernel/index.js'
import { formatAddress } from '../listeners/index.js'
import { adoptListeners, listenersOf } from '../os/foreign-listeners.js'
import { OtherProcess } from '../os/other-process.js'
import type { Command } from './command.js'
import { parseListeners } from './named-listeners.js'
import { durationOption, parsePid } from './options.js'
import { print, table } from './output.js'

interface AdoptFlags {
  pid: string
  listener?: string[]
  control?: string
  service?: string
  json?: true
  timeout: number
}

export function addAdopt(program: Command): void {
  program
    .command('adopt')
    .description('show the listeners of a running process, or take them over into a daemon')
    .requiredOption('--pid <pid>', 'process that does not use fd-broker')
    .option('--listener <name=address...>', 'listener to take over, with its name in the service')
    .option('--control <path>', 'control socket of the daemon')
    .option('--service <name>', 'service in the daemon; it must have no member yet')
    .json()
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '10s'))
    .notes(`The process keeps accepting until you end it. First let the next version join the service and serve (both then accept);
then end the process with the signal that lets it complete accepted requests. This command needs the right to trace the process: run it as
the process's user, or as root with CAP_SYS_PTRACE. For any program: fd-broker run --adopt.`)
    .examples(
      'fd-broker adopt --pid 4711',
      'fd-broker adopt --pid 4711 --listener web=tcp://0.0.0.0:8080 --control /run/shop/broker.sock --service shop',
    )
    .action(adopt)
}

async function adopt({ pid: text, listener, control, service, json, timeout }: AdoptFlags): Promise<void> {
  const pid = parsePid('pid', text)
  if (control === undefined && service === undefined && listener === undefined) {
    showListeners(pid, json)
    return
  }
  if (control === undefined || service === undefined || listener === undefined)
    throw new FdbError(
      'ERR_FDB_OPTION',
      'give --listener, --control and --service to move listeners into a daemon, or none of these options to list the listeners',
    )
  const held = await moveToDaemon(pid, { listener, control, service, timeout })
  const names = held.map(({ name, address }) => `${name}  ${address}`).join('\n')
  const summary = `${names}\nthe daemon holds them for ${service}; process ${pid} keeps serving\n`
  print(json, { ok: true, pid, service, listeners: held }, summary)
}

function showListeners(pid: number, json: true | undefined): void {
  using other = OtherProcess.of(pid)
  const found = listenersOf(other)
  try {
    const rows = found
      .map(({ about, number }) => ({
        address: formatAddress(about),
        descriptor: number,
        inode: about.ino,
        reusePort: about.reusePort ?? false,
        dualStack: about.family === 'inet6' && about.ipv6Only === false,
      }))
      .sort((a, b) => a.descriptor - b.descriptor)
    const cells = rows.map(({ address, descriptor, inode, reusePort, dualStack }) => [
      address,
      descriptor,
      Number(inode),
      [...(reusePort ? ['reusePort'] : []), ...(dualStack ? ['IPv4 too'] : [])].join(', '),
    ])
    const text = `${table(['ADDRESS', 'FD', 'INODE', 'OPTIONS'], cells).join('\n')}\n`
    print(json, { pid, listeners: rows }, text)
  } finally {
    closeAll(found.map(({ fd }) => fd))
  }
}

type AdoptTarget = Required<Pick<AdoptFlags, 'listener' | 'control' | 'service' | 'timeout'>>

/** Moves listeners to a daemon: joins as the first member of the service, and leaves. The daemon keeps the listeners. */
async function moveToDaemon(
  pid: number,
  { listener, control, service, timeout }: AdoptTarget,
): Promise<{ name: string; address: string }[]> {
  const wanted = parseListeners(listener)
  using other = OtherProcess.of(pid)
  await refuseServed({ control, service, timeout })
  const adopted = adoptListeners(other, wanted)
  const { passedSockets } = await import('../os/service-manager/passed-sockets.js')
  passedSockets().offer(adopted)
  const { join } = await import('../member/joining/join.js')
  await using member = await join({ service, control, hosting: 'daemon', timeout })
  const held = []
  for (const { name, spec } of adopted) {
    const { address } = await member.listen(name, spec)
    held.push({ name, address: address.url })
  }
  // `unserved`: the daemon holds the listeners, and no member serves them yet.
  await member.ready({ timeout, unserved: true })
  return held
}

/** Rejects if the service exists, because this process does not serve, and would replace the member of the service. */
async function refuseServed({ control, service, timeout }: Omit<AdoptTarget, 'listener'>): Promise<void> {
  const { statusAt } = await import('../operator/client.js')
  const { isDaemon } = await import('../operator/status-report.js')
  const answer = await statusAt(control, timeout)
  if (!isDaemon(answer))
    throw new FdbError(
      'ERR_FDB_NOT_A_DAEMON',
      `the process at ${control} is no daemon: start one (fd-broker serve) at another path`,
    )
  const there = answer.services.find(each => each.service === service)
  if (there === undefined) return
  throw new FdbError(
    'ERR_FDB_BUSY',
    `the daemon at ${control} already has a service "${service}": give another name as --service`,
  )
}
