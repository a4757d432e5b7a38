import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { endMarked } from '../processes/marked.js'
import type { Manager, Ready } from './managers.js'

/** The programs of a machine without compilers: no cc, no make, no python. */
const PROGRAMS = ['sh', 'bash', 'cat', 'sleep', 'env', 'uname', 'sed', 'ls', 'dirname', 'basename']

/** Runs a command, and writes to `$0` what it has used of processors. */
const TIMED = '"$@"; code=$?; times > "$0"; exit $code'

export interface Ran {
  readonly code: number | null
  readonly out: string
  /** stdout and stderr, as they came. */
  readonly text: string
  readonly ms: number
  /** The work of the command and of its children, in ms of a processor. */
  readonly workMs: number
}

/**
 * An empty folder of a user with Node and a package manager, and the commands that are run there. All their processes have
 * ended when it is closed.
 */
export class Project implements AsyncDisposable {
  readonly manager: Manager
  readonly folder = realpathSync(mkdtempSync(join(tmpdir(), 'fdb-package-')))
  readonly env: NodeJS.ProcessEnv
  readonly #ready: Ready
  readonly #bin = realpathSync(mkdtempSync(join(tmpdir(), 'fdb-path-')))
  readonly #mark = randomUUID()

  constructor(manager: Manager, ready: Ready, { registry, cache }: { registry: string; cache: string }) {
    this.manager = manager
    this.#ready = ready
    const settings = `registry=${registry}\ncache=${cache}\naudit=false\nfund=false\nupdate-notifier=false\n`
    writeFileSync(join(this.#bin, 'npmrc'), settings)
    for (const [name, text] of Object.entries(manager.files?.(registry) ?? {})) this.write(name, text)
    for (const name of PROGRAMS) symlinkSync(found(name), join(this.#bin, name))
    symlinkSync(ready.node, join(this.#bin, 'node'))
    this.#provideNpm()
    const { HOME, LANG, TMPDIR, NODE_EXTRA_CA_CERTS, HTTPS_PROXY, https_proxy, NO_PROXY, no_proxy } =
      process.env
    const kept = { HOME, LANG, TMPDIR, NODE_EXTRA_CA_CERTS, HTTPS_PROXY, https_proxy, NO_PROXY, no_proxy }
    this.env = {
      ...kept,
      PATH: this.#bin,
      npm_config_userconfig: join(this.#bin, 'npmrc'),
      npm_config_registry: registry,
      FDB_PACKAGE_PROJECT: this.#mark,
    }
  }

  write(name: string, text: string): string {
    const path = join(this.folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
    return path
  }

  /** Installs the package, as its documentation says. */
  async install(): Promise<Ran> {
    return await this.run([...this.#ready.command, ...this.manager.install])
  }

  /** Runs a command of an installed package. */
  async exec(...args: string[]): Promise<Ran> {
    return await this.run([...this.#ready.command, ...this.manager.exec, ...args])
  }

  /** The command of the package itself. */
  get bin(): string {
    return join(this.folder, 'node_modules/.bin/fd-broker')
  }

  /** Never rejects: how it went is for the caller to judge. */
  async run(command: readonly string[], env: NodeJS.ProcessEnv = {}, timeout = 60_000): Promise<Ran> {
    const from = performance.now()
    const times = join(this.#bin, 'times')
    const child = spawn('sh', ['-c', TIMED, times, ...command], {
      cwd: this.folder,
      env: { ...this.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout,
      killSignal: 'SIGKILL',
    })
    let text = ''
    let out = ''
    child.stdout.on('data', data => (out += data))
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', data => (text += data))
    const code = await new Promise<number | null>(resolve => {
      child.on('error', error => {
        text += error.message
        resolve(null)
      })
      child.on('close', resolve)
      // Background processes may keep its output open: its own output has come by then.
      child.on('exit', code => setTimeout(resolve, 250, code))
    })
    return { code, out, text, ms: performance.now() - from, workMs: workedMs(times) }
  }

  /** The packages and bytes that the installation has brought. */
  brought(): { packages: string[]; bytes: number } {
    const packages: string[] = []
    let bytes = 0
    for (const entry of readdirSync(join(this.folder, 'node_modules'), {
      recursive: true,
      withFileTypes: true,
    })) {
      if (!entry.isFile()) continue
      const path = join(entry.parentPath, entry.name)
      bytes += statSync(path).size
      const [, name] = /.*node_modules\/((?:@[^/]+\/)?[^/.][^/]*)\/package\.json$/.exec(path) ?? []
      if (name !== undefined) packages.push(name)
    }
    return { packages: packages.sort(), bytes }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endMarked(this.#mark)
    for (const folder of [this.folder, this.#bin]) rmSync(folder, { recursive: true, force: true })
  }

  /** `npm` and `npx` on the PATH: of this manager if it is one, else those of the machine. */
  #provideNpm(): void {
    const { node, command } = this.#ready
    const [, program] = command
    const npm = program?.endsWith('npm-cli.js') ? program : realpathSync(found('npm'))
    for (const name of ['npm', 'npx']) {
      const path = join(this.#bin, name)
      writeFileSync(path, `#!/bin/sh\nexec ${node} ${join(dirname(npm), `${name}-cli.js`)} "$@"\n`)
      chmodSync(path, 0o755)
    }
  }
}

/** The second line of what `times` says is of the shell's children: user and system. */
function workedMs(file: string): number {
  // One that was killed has written nothing.
  if (!existsSync(file)) return 0
  const said = readFileSync(file, 'utf8').split('\n')[1] ?? ''
  const seconds = [...said.matchAll(/(\d+)m([\d.]+)s/g)].map(([, m, s]) => Number(m) * 60 + Number(s))
  return seconds.reduce((sum, one) => sum + one, 0) * 1000
}

function found(program: string): string {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, program)
    if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path
  }
  throw new Error(`there is no ${program} on the PATH`)
}
