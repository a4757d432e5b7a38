import { readdirSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { startedAs, successorCommand } from '../os/command-line.js'

/** Folders of addons within the package. */
const ADDONS = ['build/Release', `prebuilds/${process.platform}-${process.arch}`]

/**
 * Compares the code of this process (Node, the package, its addons, its working folder) with the code that its command would load now. Compares
 * device, inode, size and times: reading contents would slow each start. A file that was rewritten with the same bytes counts as changed,
 * which costs a harmless upgrade.
 */
export class CodeSnapshot {
  readonly #atStart = lookAtStart()

  /** Returns the names of changed parts. Throws the errors of `successorCommand()`: then there is nothing to upgrade to. */
  changed(): string[] {
    const now = look()
    const names = new Set([...this.#atStart.keys(), ...now.keys()])
    return [...names].filter(name => this.#atStart.get(name) !== now.get(name)).sort()
  }
}

/** A command that resolves to no program must not keep this process from serving: returns an empty map. */
function lookAtStart(): Map<string, string> {
  try {
    return look()
  } catch {
    return new Map()
  }
}

/** Returns the identity of each part, by name. */
function look(): Map<string, string> {
  const { file, cwd } = successorCommand()
  const found = new Map([['node', identityOf(realpathOf(file), true)]])
  // Its times are left out: they change with every file in the folder.
  const { dev, ino } = statSync(cwd, { bigint: true })
  found.set('the working folder', `${dev} ${ino}`)
  if (startedAs.script === undefined) return found
  const script = realpathSync(resolve(cwd, startedAs.script))
  const root = dirname(dirname(script))
  for (const folder of [basename(dirname(script)), ...ADDONS])
    for (const [name, real] of filesIn(join(root, folder))) found.set(`${folder}/${name}`, identityOf(real))
  found.set('package.json', identityOf(realpathOf(join(root, 'package.json'))))
  return found
}

/** Returns real paths by name. Only links are resolved: realpath() costs more than everything else. */
function filesIn(folder: string): [name: string, real: string | null][] {
  try {
    const real = realpathSync(folder)
    return readdirSync(real, { withFileTypes: true })
      .filter(entry => !entry.isDirectory())
      .map(entry => {
        const path = join(real, entry.name)
        return [entry.name, entry.isSymbolicLink() ? realpathOf(path) : path]
      })
  } catch {
    return []
  }
}

function realpathOf(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null
  }
}

/**
 * Identifies a file by path, inode, size and times: the same file in another release's folder counts as changed. Size and times are
 * left out for a running program, which cannot change.
 */
function identityOf(real: string | null, runs = false): string {
  if (real === null) return 'none'
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(real, { bigint: true })
    return [real, dev, ino, ...(runs ? [] : [size, mtimeNs, ctimeNs])].join(' ')
  } catch {
    return 'none'
  }
}
