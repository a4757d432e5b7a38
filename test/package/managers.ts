import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './tarball.js'

/** A program that installs packages, of one release. */
export interface Manager {
  readonly name: string
  /** The package it is, as npm is told; undefined: the npm that is there. */
  readonly from?: string
  /** The program in that package. */
  readonly program?: string
  /** The first Node on which it runs; default: any that we do. */
  readonly since?: number
  /** Installs the package, once there is a project. */
  readonly install: readonly string[]
  /** Files of the project, besides package.json: by name. */
  files?(registry: string): Record<string, string>
  /** Runs a command of an installed package. */
  readonly exec: readonly string[]
}

const NPM = { program: 'bin/npm-cli.js', install: ['install', 'fd-broker'], exec: ['exec', '--no', '--'] }
const PNPM = { install: ['add', 'fd-broker'], exec: ['exec'] }
const YARN = { program: 'bin/yarn.js', install: ['add', 'fd-broker'], exec: ['run'] }
const scriptless = (manager: Manager): Manager => ({
  ...manager,
  name: `${manager.name} --ignore-scripts`,
  install: [...manager.install, '--ignore-scripts'],
})

const NPM_11: Manager = { name: 'npm 11', from: 'npm@11', ...NPM }
const NPM_12: Manager = { name: 'npm 12', from: 'npm@12', since: 24, ...NPM }

export const MANAGERS: readonly Manager[] = [
  { name: 'npm', ...NPM },
  NPM_11,
  scriptless(NPM_11),
  NPM_12,
  scriptless(NPM_12),
  { name: 'pnpm 10', from: 'pnpm@10', program: 'bin/pnpm.cjs', ...PNPM },
  { name: 'pnpm 12', from: 'pnpm@12', program: 'pnpm', ...PNPM },
  { name: 'yarn 1', from: 'yarn@1', ...YARN, exec: ['--silent', 'run'] },
  {
    name: 'yarn 4',
    from: '@yarnpkg/cli-dist@4',
    ...YARN,
    files: yarnProject,
  },
]

/** Yarn asks for a project that is no part of another one; its cache knows packages by the version alone. */
function yarnProject(registry: string): Record<string, string> {
  const settings = `npmRegistryServer: ${JSON.stringify(registry)}
unsafeHttpWhitelist: ["127.0.0.1"]
nodeLinker: node-modules
enableTelemetry: false
enableGlobalCache: false
enableMirror: false
`
  return { 'package.json': '{ "private": true }\n', 'yarn.lock': '', '.yarnrc.yml': settings }
}

/** A manager that can be run: what was needed for it has been downloaded. */
export interface Ready {
  /** The program, and what comes before its arguments. */
  readonly command: readonly string[]
  readonly version: string
  /** The Node that it runs with, as does what is installed. */
  readonly node: string
}

export function readied({ from, program = '', since = 0 }: Manager): Ready {
  const node = nodeSince(since)
  if (from === undefined) return { command: ['npm'], version: output('npm', '--version'), node }
  const home = downloaded(from)
  const path = join(home, program)
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as { version: string }
  return { command: /\.c?js$/.test(path) ? [node, path] : [path], version, node }
}

/** This one, or the last of that major version. */
function nodeSince(major: number): string {
  if (Number(process.versions.node.split('.')[0]) >= major) return process.execPath
  return join(downloaded(`node-${process.platform}-${process.arch}@${major}`), 'bin/node')
}

/** The folder of a package that npm has downloaded, perhaps for an earlier run. */
function downloaded(from: string): string {
  const folder = join(ROOT, 'node_modules/.cache/fd-broker-package', from.replaceAll('/', '+'))
  const home = join(folder, 'node_modules', from.replace(/(?<=.)@.*$/, ''))
  if (!existsSync(home)) {
    mkdirSync(folder, { recursive: true })
    output('npm', 'install', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', from)
  }
  return home
}

function output(...[file = '', ...args]: string[]): string {
  return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
}
