import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** All that is downloaded lies here, once; nothing of the machine changes. */
const CACHE = fileURLToPath(new URL('../../build/targets', import.meta.url))

/** Debian 13: its musl (1.2.5) is the first that reads the relocations of the wheels' Node; 1.2.3 crashes. */
const DEBIAN = 'trixie'
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

const UNPACK = 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" "$3"'

/** A folder that `fill` has filled, now or at another time; one that was left half-way is not seen. */
export function folderOnce(name: string, fill: (folder: string) => void): string {
  const folder = join(CACHE, name)
  if (existsSync(folder)) return folder
  const unfinished = `${folder}.${process.pid}`
  mkdirSync(unfinished, { recursive: true })
  try {
    fill(unfinished)
    renameSync(unfinished, folder)
  } finally {
    rmSync(unfinished, { recursive: true, force: true })
  }
  return folder
}

/** A wheel of PyPI, unpacked: for a platform (`musllinux_1_2_aarch64`), or for this machine; `change` sees it once. */
export function wheel(requirement: string, platform?: string, change?: (folder: string) => void): string {
  return folderOnce(`${requirement.replace('==', '-')}${platform ? `-${platform}` : ''}`, folder => {
    const options = [
      '--no-deps',
      '--no-compile',
      '--only-binary=:all:',
      '--quiet',
      '--root-user-action=ignore',
    ]
    const which = platform ? ['--platform', platform] : []
    run('python3', ['-m', 'pip', 'install', ...options, '--target', folder, ...which, requirement])
    change?.(folder)
  })
}

/**
 * Packages of Debian (`musl:arm64`), unpacked over one another as a root of their own, or one file of them; their scripts are not run.
 * Debian's key verifies each download.
 */
export function debianRoot(name: string, packages: readonly string[], file = '.'): string {
  return folderOnce(name, root => {
    const apt = join(root, 'apt')
    for (const part of ['state/lists/partial', 'cache/archives/partial', 'debs'])
      mkdirSync(join(apt, part), { recursive: true })
    writeFileSync(join(apt, 'status'), '')
    writeFileSync(
      join(apt, 'sources.list'),
      `deb [signed-by=${KEYRING}] http://deb.debian.org/debian ${DEBIAN} main\n`,
    )
    writeFileSync(
      join(apt, 'apt.conf'),
      [
        `Dir::State "${apt}/state";`,
        `Dir::State::status "${apt}/status";`,
        `Dir::Cache "${apt}/cache";`,
        `Dir::Etc::sourcelist "${apt}/sources.list";`,
        'Dir::Etc::sourceparts "/dev/null";',
        'Dir::Etc::preferencesparts "/dev/null";',
        'APT::Architectures { "amd64"; "arm64"; };',
        'APT::Sandbox::User "";',
        'Acquire::Languages "none";',
        '',
      ].join('\n'),
    )
    const env = { APT_CONFIG: join(apt, 'apt.conf') }
    run('apt-get', ['-qq', 'update'], { env })
    run('apt-get', ['-qq', 'download', ...packages], { env, cwd: join(apt, 'debs') })
    for (const deb of readdirSync(join(apt, 'debs')))
      run('sh', ['-c', UNPACK, 'sh', join(apt, 'debs', deb), root, file])
    rmSync(apt, { recursive: true })
  })
}

function run(command: string, args: string[], { env, cwd }: { env?: object; cwd?: string } = {}): void {
  execFileSync(command, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
    ...(cwd && { cwd }),
  })
}
