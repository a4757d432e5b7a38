import { spawn, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const SCRIPT = fileURLToPath(new URL('machine.sh', import.meta.url))
const BOOTED_MS = 120_000

/** The output of a machine's driver, one JSON object a line. */
// biome-ignore lint/suspicious/noExplicitAny: whatever it says
export type Said = Record<string, any>

/** Also one that `npm run unpack-nspawn` has unpacked. */
function nspawn(): string | null {
  const places = [...(process.env.PATH ?? '').split(':').map(folder => join(folder, 'systemd-nspawn'))]
  places.push(join(ROOT, 'build/nspawn/usr/bin/systemd-nspawn'))
  return places.find(place => existsSync(place)) ?? null
}

/** Why no machine can be booted here; null: it can. */
export function noMachine(): string | null {
  if (process.getuid?.() !== 0) return 'it needs root'
  if (nspawn() === null) return 'there is no systemd-nspawn (npm run unpack-nspawn)'
  if (!['/lib/systemd/systemd', '/usr/lib/systemd/systemd'].some(path => existsSync(path)))
    return 'there is no systemd'
  const mounted = spawnSync('unshare', [
    '--mount',
    '--propagation',
    'private',
    'mount',
    '-t',
    'tmpfs',
    't',
    '/mnt',
  ])
  return mounted.status === 0 ? null : 'mounting is not allowed'
}

interface MachineOptions {
  /** Further units, or files for existing ones (`edge.service.d/test.conf`), by name. */
  readonly units?: Readonly<Record<string, string>>
  /** The machine is ended after this time. */
  readonly ms?: number
}

/**
 * Boots a machine with these units beside those in `docs/examples/systemd`, runs a driver (`node /opt/fd-broker/test/…` inside) and resolves with what it said when
 * the machine has ended. `files`: in /out.
 */
export async function runMachine(
  driver: string,
  files: Readonly<Record<string, string>>,
  { units = {}, ms = BOOTED_MS }: MachineOptions = {},
): Promise<Said[]> {
  // Not below /tmp: inside there is another.
  const folder = mkdtempSync('/var/tmp/fdb-machine-')
  try {
    for (const name of ['machine', 'out']) mkdirSync(join(folder, name))
    cpSync(join(ROOT, 'docs/examples/systemd'), join(folder, 'units'), { recursive: true })
    for (const [name, text] of Object.entries(units)) {
      mkdirSync(dirname(join(folder, 'units', name)), { recursive: true })
      writeFileSync(join(folder, 'units', name), text)
    }
    writeFileSync(join(folder, 'units/test.target'), '[Unit]\nRequires=driver.service\n')
    writeFileSync(
      join(folder, 'units/driver.service'),
      `[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart="${process.execPath}" /opt/fd-broker/test/fixtures/${driver}
ExecStopPost=/bin/systemctl --no-block exit 0
StandardOutput=file:/out/said
StandardError=file:/out/errors
`,
    )
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, 'out', name), text)
    const end = await boot(folder, ms)
    const read = (name: string) =>
      existsSync(join(folder, 'out', name)) ? readFileSync(join(folder, 'out', name), 'utf8') : ''
    const said = read('said')
      .split('\n')
      .filter(line => line.startsWith('{'))
      .map(line => JSON.parse(line) as Said)
    const errors = read('errors')
    if (!said.some(({ step }) => step === 'end'))
      throw new Error(`the machine did not come to its end:\n${end}\n${errors}\n${read('said')}`)
    const failed = said.find(({ step }) => step === 'failed')
    if (failed !== undefined) throw new Error(`the driver failed: ${failed.error}\n${failed.journal ?? ''}`)
    return said
  } finally {
    removeCgroups()
    rmSync(folder, { recursive: true, force: true })
  }
}

function boot(folder: string, ms: number): Promise<string> {
  const args = [
    '--mount',
    '--propagation',
    'private',
    'sh',
    SCRIPT,
    nspawn()!,
    folder,
    ROOT,
    process.execPath,
  ]
  const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: ms })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', text => (output += text))
  return new Promise(resolve => child.once('close', () => resolve(output)))
}

/** Removes the cgroups that systemd-nspawn leaves behind in ours. */
function removeCgroups(): void {
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').trim().split('\n')) {
    const [, controllers = '', path = '/'] = line.split(':')
    const mounts = controllers === '' ? ['', 'unified'] : [controllers.replace('name=', '')]
    for (const mount of mounts)
      for (const name of ['payload', 'supervisor']) removeCgroup(join('/sys/fs/cgroup', mount, path, name))
  }
}

function removeCgroup(folder: string): void {
  if (!existsSync(folder)) return
  for (const entry of readdirSync(folder, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroup(join(folder, entry.name))
  try {
    rmdirSync(folder)
  } catch {
    // A process is in it.
  }
}
