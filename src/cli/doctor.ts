import { accessSync, constants, existsSync, readFileSync, rmdirSync, statSync, unlinkSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { SOCKET_MODES } from '../base/socket-modes.js'
import { FdbError } from '../errors.js'
import { startedAs } from '../os/command-line.js'
import type { Command } from './command.js'
import { plain, print, style } from './output.js'

interface DoctorFlags {
  control?: string
  service?: string
  json?: true
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('check which features work on this machine; exit code 1 if upgrades do not')
    .option('--control <path>', 'control socket of a future service; default: from its name')
    .option('--service <name>', 'name of the service; default: from package.json')
    .json()
    .notes(
      `Run doctor as the service's user, in its unit or container, because it checks the limits, folders and system call filters there.`,
    )
    .examples(
      'fd-broker doctor',
      'sudo -u shop fd-broker doctor --control /run/shop/upgrade.sock',
      'docker run --rm --entrypoint npx IMAGE fd-broker doctor',
    )
    .action(doctor)
}

async function doctor({ control, service, json }: DoctorFlags): Promise<void> {
  const { serviceName } = await import('../auto/settings.js')
  const named = service ?? serviceName(resolve(startedAs.cwd, 'server.js'))
  const findings = await examine({ control, service: named, env: process.env })
  const ok = findings.every(({ status }) => status !== 'failed')
  print(json, { ok, findings }, () => findingsText(findings))
  if (!ok) process.exitCode = 1
}

const COLOURS = { ok: 'green', note: 'dim', warning: 'yellow', failed: 'red' } as const

function findingsText(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ status, name, found, remedy }) => [
    `${style(COLOURS[status], status.padEnd(7))}  ${style('bold', name)}: ${plain(found)}`,
    ...(remedy === undefined ? [] : [`         ${plain(remedy)}`]),
  ])
  const failed = findings.filter(({ status }) => status === 'failed').length
  const warnings = findings.filter(({ status }) => status === 'warning').length
  const sum =
    failed > 0
      ? `Upgrades do not work here: ${failed} failed.`
      : warnings > 0
        ? `Upgrades work here, with ${warnings === 1 ? '1 warning' : `${warnings} warnings`}.`
        : 'Upgrades work here.'
  return `${lines.join('\n')}\n\n${sum}\n`
}

export interface Finding {
  readonly name: string
  /** `failed`: upgrades do not work here; `warning`: they work with a restriction. */
  readonly status: 'ok' | 'note' | 'warning' | 'failed'
  readonly found: string
  readonly remedy?: string
}

interface DoctorSubject {
  readonly control: string | undefined
  readonly service: string
  readonly env: Readonly<NodeJS.ProcessEnv>
}

type CheckResult = Omit<Finding, 'name'>

const PM2: CheckResult = {
  status: 'note',
  found: 'it has started this process',
  remedy: 'let pm2 keep a small parent, and fd-broker replace the server: docs/deploy.md',
}
const OLDEST_NODE = [20, 19] as const
const OLDEST_KERNEL = [5, 10] as const
/** A service soon reaches a lower limit: during an upgrade both versions hold the descriptors of all clients. */
const FEW_DESCRIPTORS = 4_096

/** Runs all checks. If the addon cannot be loaded, omits those that need it. */
async function examine(subject: DoctorSubject): Promise<Finding[]> {
  const findings: Finding[] = []
  const check = async (name: string, run: () => CheckResult | Promise<CheckResult>) => {
    try {
      findings.push({ name, ...(await run()) })
    } catch (error) {
      findings.push({ name, status: 'failed', found: messageOf(error) })
    }
  }
  await check('Node', () => checkNode(process.versions.node))
  await check('system', () => checkSystem(process.platform, kernelRelease()))
  let loaded = false
  await check('addon', async () => {
    const { addonFile, requireAddon } = await import('../kernel/index.js')
    requireAddon()
    loaded = true
    return { status: 'ok', found: addonFile() ?? 'loaded' }
  })
  if (loaded) {
    await check('Node internals', checkInternals)
    await check('TLS', checkTls)
    if (findModule('ws') !== null) await check('ws', checkWs)
    if (findModule('socket.io') !== null) await check('socket.io', checkSocketIo)
    await check('descriptors over Unix sockets', checkDescriptorPassing)
    await check('sealed memory', checkSealedMemory)
    await check('pidfd', checkPidfd)
    await check('SO_REUSEPORT', checkReusePort)
    await check('control socket', () => checkControlSocket(subject))
    await check('log file', () => checkLogFile(subject))
    await check('limit on descriptors', checkDescriptorLimit)
    await check('main process', checkMainProcess)
  }
  await check('/proc', () => checkProc(existsSync('/proc/self/stat')))
  await check('systemd', () => checkSystemd(subject.env, existsSync('/run/systemd/system')))
  if (subject.env.pm_id !== undefined) await check('pm2', () => PM2)
  return findings
}

function messageOf(error: unknown): string {
  return FdbError.is(error) ? `${error.code}: ${error.message}` : String((error as Error).message ?? error)
}

function checkNode(version: string): CheckResult {
  if (!isOlder(version, OLDEST_NODE)) return { status: 'ok', found: version }
  return {
    status: 'failed',
    found: `${version} is older than ${OLDEST_NODE.join('.')}`,
    remedy: 'install Node 20.19 or newer',
  }
}

function checkSystem(platform: string, release: string): CheckResult {
  const found = `${platform} ${release} ${process.arch}`
  if (platform === 'darwin')
    return {
      status: 'warning',
      found,
      remedy:
        'macOS is untested and has no sealed memory: a commit is final. Use it for development, and Linux in production',
    }
  if (platform !== 'linux')
    return {
      status: 'failed',
      found,
      remedy: 'processes cannot pass sockets here: run the service on Linux (WSL 2, a container)',
    }
  if (!isOlder(release, OLDEST_KERNEL)) return { status: 'ok', found }
  return {
    status: 'failed',
    found: `${found} is older than ${OLDEST_KERNEL.join('.')}`,
    remedy: 'upgrade the kernel to 5.10 or newer',
  }
}

function isOlder(version: string, [major, minor]: readonly [number, number]): boolean {
  const [own = 0, ownMinor = 0] = version.split(/[.-]/).map(Number)
  return own < major || (own === major && ownMinor < minor)
}

function kernelRelease(): string {
  try {
    return readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim()
  } catch {
    return process.getBuiltinModule('node:os').release()
  }
}

async function checkInternals(): Promise<CheckResult> {
  const { missingInternals } = await import('../node/missing-internals.js')
  const missing = missingInternals()
  if (missing.length === 0) return { status: 'ok', found: 'as expected' }
  return { status: 'warning', found: missing.map(({ message }) => message).join('; ') }
}

async function checkTls(): Promise<CheckResult> {
  const { missingInternals } = await import('../node/missing-internals.js')
  const { TLS_COUNTS } = await import('../node/tls-counts.js')
  const { TLS_WRITES } = await import('../node/openssl.js')
  const missing = missingInternals([TLS_COUNTS, TLS_WRITES])
  if (missing.length > 0)
    return { status: 'warning', found: missing.map(({ message }) => message).join('; ') }
  return { status: 'ok', found: "TLS 1.3 connections of https servers move with tls: { move: 'on' }" }
}

/** Returns the file that a program in this folder gets for the package, or null. */
function findModule(name: string): string | null {
  try {
    return createRequire(join(startedAs.cwd, 'server.js')).resolve(name)
  } catch {
    return null
  }
}

async function checkWs(): Promise<CheckResult> {
  const { lackingOf, TESTED_WS } = await import('../ws/moved-web-sockets.js')
  const file = findModule('ws')!
  const lacking = lackingOf(createRequire(file)(file))
  if (lacking === null) return { status: 'ok', found: 'WebSockets move after moveWebSockets()' }
  return {
    status: 'warning',
    found: `WebSockets do not move: ${file} has no ${lacking} as in ws ${TESTED_WS}`,
    remedy: `install ws ${TESTED_WS}, or a release of fd-broker that supports this one`,
  }
}

async function checkSocketIo(): Promise<CheckResult> {
  const { lackingOf, TESTED_SOCKET_IO } = await import('../socket-io/sessions.js')
  const file = findModule('socket.io')!
  const { Server } = createRequire(file)(file)
  const io = new Server(createServer())
  const error = await lackingOf(io)
  await io.close()
  if (error === null) return { status: 'ok', found: 'sessions move after recoverSockets()' }
  return {
    status: 'warning',
    found: `sessions of socket.io do not move: ${file} differs from socket.io ${TESTED_SOCKET_IO}`,
    remedy: `install socket.io ${TESTED_SOCKET_IO}, or a release of fd-broker that supports this one`,
  }
}

async function checkDescriptorPassing(): Promise<CheckResult> {
  const { closeAll, receiveMessage, sendMessage, socketPair } = await import('../kernel/index.js')
  const pair = socketPair('doctor')
  let received: ReturnType<typeof receiveMessage>['fds'] = null
  try {
    sendMessage(pair[0], Buffer.from('x'), 0, 1, [pair[0]])
    received = receiveMessage(pair[1], Buffer.alloc(1)).fds
  } finally {
    closeAll([...pair, ...(received ?? [])])
  }
  if (received?.length === 1) return { status: 'ok', found: 'they arrive (SCM_RIGHTS)' }
  return {
    status: 'failed',
    found: 'a descriptor that was sent did not arrive (SCM_RIGHTS)',
    remedy: 'allow sendmsg with SCM_RIGHTS in the sandbox of this process, or run it outside the sandbox',
  }
}

const NO_SEALS =
  'an upgrade works, but its commit is final: the old version cannot take over again, and connections do not move'

async function checkSealedMemory(): Promise<CheckResult> {
  const { addSeals, memoryFile, SEAL_WRITE, sealsOf } = await import('../kernel/index.js')
  using memory = memoryFile('fd-broker-doctor', 'doctor')
  if (sealsOf(memory) === null)
    return {
      status: 'warning',
      found: `memfd_create is missing or refused: ${NO_SEALS}`,
      remedy: 'allow memfd_create in the filter of system calls (seccomp) of this process',
    }
  addSeals(memory, SEAL_WRITE)
  return { status: 'ok', found: 'memfd_create, F_SEAL_WRITE' }
}

async function checkPidfd(): Promise<CheckResult> {
  const { openPidfd } = await import('../os/liveness.js')
  const own = openPidfd(process.pid)
  if (own === null || own === 'dead')
    return {
      status: 'warning',
      found:
        'pidfd_open is missing or refused: the end of a process is seen in /proc, later; fd-broker exec fails',
      remedy:
        'allow pidfd_open and pidfd_send_signal in the filter of system calls (seccomp) of this process',
    }
  own.close()
  return { status: 'ok', found: 'pidfd_open' }
}

async function checkReusePort(): Promise<CheckResult> {
  const { bindSocket } = await import('../kernel/index.js')
  try {
    bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, reusePort: true }, 'doctor').close()
    return { status: 'ok', found: 'can be set; a handoff does not need it' }
  } catch (error) {
    return {
      status: 'note',
      found: `cannot be set (${(error as Error).message}): listeners with reusePort are refused, all others work`,
    }
  }
}

async function checkControlSocket({ control, service, env }: DoctorSubject): Promise<CheckResult> {
  const { defaultControl, temporaryControl } = await import('../os/default-control.js')
  if (control !== undefined) return await checkControlPath(control)
  const remedy =
    'create /run/fd-broker for this user (RuntimeDirectory=fd-broker in a unit), log in with a session that sets XDG_RUNTIME_DIR, or give join() a path (control) and try --control PATH'
  try {
    const result = await checkControlPath(defaultControl(service, env))
    return result.status === 'ok' ? result : { ...result, remedy }
  } catch (error) {
    // If the service name is not a file name, this throws too: it has no temporary path either.
    const result = await checkControlPath(temporaryControl(service))
    if (result.status !== 'ok') return { status: 'failed', found: messageOf(error), remedy }
    const found = `${result.found}: fd-broker start and fd-broker/auto use it; join() without a control path does not, for ${messageOf(error)}`
    return { status: 'warning', found, remedy }
  }
}

async function checkControlPath(path: string): Promise<CheckResult> {
  const { checkSocketPath, requirePrivateFolder } = await import('../os/connect.js')
  const { bindControl, checkIsSocket, ensureFolder } = await import('../os/control-path.js')
  try {
    checkSocketPath(path)
    const folder = dirname(path)
    const there = statSync(folder, { throwIfNoEntry: false })
    if (there?.isDirectory())
      requirePrivateFolder(folder, there, new Set([process.geteuid?.() ?? there.uid, 0]))
    else ensureFolder(folder)
    checkIsSocket(path)
    // The check uses a temporary name, because a running service may listen at the path itself. In the folder even a longer name is short.
    const temporary = `.doctor-${process.pid}`
    const back = process.cwd()
    try {
      process.chdir(folder)
      bindControl(temporary, SOCKET_MODES.control).listener.close()
      unlinkSync(temporary)
    } finally {
      process.chdir(back)
      if (there === undefined) rmdirSync(folder)
    }
    return { status: 'ok', found: `${path} can be created${existsSync(path) ? ', and exists' : ''}` }
  } catch (error) {
    return { status: 'failed', found: messageOf(error) }
  }
}

/** Checks the log of `fd-broker start`. Creates nothing. */
async function checkLogFile({ service, env }: DoctorSubject): Promise<CheckResult> {
  const { defaultLog, LOG_FILE } = await import('../auto/log-files.js')
  let log: string
  try {
    log = env[LOG_FILE] || defaultLog(service, env)
  } catch (error) {
    return { status: 'warning', found: messageOf(error) }
  }
  let folder = dirname(log)
  while (!existsSync(folder)) folder = dirname(folder)
  try {
    accessSync(folder, constants.W_OK | constants.X_OK)
    return { status: 'ok', found: `${log} can be created${existsSync(log) ? ', and exists' : ''}` }
  } catch {
    return {
      status: 'warning',
      found: `${log} cannot be created: this user cannot write to ${folder}`,
      remedy: 'give fd-broker start a --log-file, or set XDG_STATE_HOME to a folder of this user',
    }
  }
}

async function checkDescriptorLimit(): Promise<CheckResult> {
  const { fdLimits } = await import('../os/limits.js')
  const { soft, hard, open } = fdLimits()
  if (soft === null) return { status: 'note', found: 'unknown: there is no /proc' }
  const found = `${soft} (at most ${hard}), of which this process uses ${open}`
  if (soft >= FEW_DESCRIPTORS) return { status: 'ok', found }
  return {
    status: 'warning',
    found: `${found}: each client needs one, and in an upgrade both versions have them`,
    remedy:
      'raise it: LimitNOFILE=65536 in a unit, ulimit -n 65536 in a shell, --ulimit nofile=65536 of docker',
  }
}

async function checkMainProcess(): Promise<CheckResult> {
  const { mainProcess } = await import('../os/main-process.js')
  const why = mainProcess()
  if (why === null) return { status: 'ok', found: 'the end of this process ends no other process' }
  return {
    status: 'note',
    found: why,
    remedy:
      "a server that starts its next version itself must stay for it: join({ mainProcess: 'stays' }) and await member.stay()",
  }
}

function checkProc(there: boolean): CheckResult {
  if (there) return { status: 'ok', found: 'mounted' }
  return {
    status: process.platform === 'linux' ? 'failed' : 'note',
    found: 'not mounted: upgrades fail, because memory cannot be opened read-only for the next version',
    remedy: 'mount it: mount -t proc proc /proc',
  }
}

function checkSystemd(env: Readonly<NodeJS.ProcessEnv>, boots: boolean): CheckResult {
  const { NOTIFY_SOCKET = '', FDSTORE = '', INVOCATION_ID = '' } = env
  if (NOTIFY_SOCKET !== '') {
    const keeps = Number(FDSTORE) > 0
    return {
      status: 'ok',
      found: `this unit is notified of upgrades (NOTIFY_SOCKET), and ${keeps ? `keeps up to ${FDSTORE} descriptors` : 'keeps no descriptors'}`,
      ...(!keeps && {
        remedy:
          'for a restart without a refused connection: FileDescriptorStoreMax=64 in the unit (systemd 254)',
      }),
    }
  }
  if (INVOCATION_ID !== '')
    return {
      status: 'note',
      found:
        'this is a unit without NOTIFY_SOCKET: systemd ends the service when its first process ends (except with KillMode=process)',
      remedy: 'Type=notify and NotifyAccess=all in the unit',
    }
  return {
    status: 'note',
    found: boots ? 'it runs here, but did not start this process' : 'it does not run here',
  }
}
