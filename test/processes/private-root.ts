import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** Makes the user root, unless it is: in a user namespace of its own. */
const AS_ROOT = process.getuid?.() === 0 ? [] : ['unshare', '--user', '--map-root-user']
const ENTER = fileURLToPath(new URL('../fixtures/enter-root.sh', import.meta.url))

/** The machine on which these tests run, with the files of a folder laid over its own; nothing on it changes. */
export class PrivateRoot {
  readonly folder: string

  constructor(folder: string) {
    this.folder = folder
  }

  /** Starts a command line there. The process is the command's own: the number stays the same. */
  get enter(): readonly string[] {
    const namespaces = ['unshare', ...(AS_ROOT.length > 0 ? ['--user', '--map-root-user'] : []), '--mount']
    return [...namespaces, 'sh', ENTER, this.folder, process.execPath]
  }

  /** Whether this machine allows that. */
  get possible(): boolean {
    const [command = '', ...args] = this.enter
    return spawnSync(command, [...args, '/usr/bin/node', '--version']).status === 0
  }

  /** As root, or as one who looks like it; outside of the folder. */
  static asRoot(command: string, ...args: string[]): string {
    const [first = '', ...rest] = [...AS_ROOT, command, ...args]
    return execFileSync(first, rest, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }
}
