import { readFileSync, realpathSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'

/**
 * Where a path lies in its file system, as `8:1:/run/shop.sock`: the same in every mount namespace, and after a folder on the way was
 * removed and made again. Null where that cannot be told (no such folder, no `/proc`).
 */
export function placeInFileSystem(path: string): string | null {
  let real: string
  let table: string
  try {
    real = join(realpathSync(dirname(path)), basename(path))
    table = readFileSync('/proc/self/mountinfo', 'utf8')
  } catch {
    return null
  }
  let best: Mount | null = null
  for (const line of table.split('\n')) {
    const mount = mountOf(line)
    // A later mount at the same point hides the one before.
    if (mount !== null && isBelow(real, mount.point) && mount.point.length >= (best?.point.length ?? 0))
      best = mount
  }
  return best === null ? null : `${best.device}:${join(best.root, relative(best.point, real))}`
}

interface Mount {
  /** major:minor */
  readonly device: string
  /** The folder of that file system which is mounted. */
  readonly root: string
  readonly point: string
}

/** proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, … */
function mountOf(line: string): Mount | null {
  const [, , device, root, point] = line.split(' ', 5)
  if (device === undefined || root === undefined || point === undefined) return null
  return { device, root: unescaped(root), point: unescaped(point) }
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}

function isBelow(path: string, folder: string): boolean {
  return folder === '/' || path.startsWith(`${folder}/`)
}
