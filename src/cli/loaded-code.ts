import { readdirSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { startedAs, successorCommand } from '../os/command-line.js'

/** Where addons are, seen from the package's folder. */
const ADDONS = ['build/Release', `prebuilds/${process.platform}-${process.arch}`]

/**
 * The code of this process (Node, the package, its addons, its folder), to be compared with what its command would load now: by device, inode, size and times,
 * not content, which would slow each start. A file written again with the same bytes counts as changed: that costs a harmless upgrade.
 */
export class LoadedCode {
  readonly #then = lookAtStart()

  /** The names of what is another now. Throws what `successorCommand()` does: then there is nothing to be upgraded to. */
  changed(): string[] {
    const now = look()
    const names = new Set([...this.#then.keys(), ...now.keys()])
    return [...names].filter(name => this.#then.get(name) !== now.get(name)).sort()
  }
}

/** Nothing where its own command leads nowhere: that is a reason not to be upgraded, and none not to serve. */
function lookAtStart(): Map<string, string> {
  try {
    return look()
  } catch {
    return new Map()
  }
}

/** Identity by name. */
function look(): Map<string, string> {
  const { file, cwd } = successorCommand()
  const found = new Map([['node', identityOf(realpathOf(file), true)]])
  // Not its times: they change with every file in it.
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

/** Real paths by name. Links are resolved only where there are any: that takes longer than all the rest. */
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

/** With its path: the same file in the folder of another release is another. A program that runs cannot be written to. */
function identityOf(real: string | null, runs = false): string {
  if (real === null) return 'none'
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(real, { bigint: true })
    return [real, dev, ino, ...(runs ? [] : [size, mtimeNs, ctimeNs])].join(' ')
  } catch {
    return 'none'
  }
}
