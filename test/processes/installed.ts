import { cpSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Puts a copy of the package there, as it is installed, with what it needs. */
export function install(folder: string): void {
  mkdirSync(join(folder, 'dist'), { recursive: true })
  cpSync(join(ROOT, 'package.json'), join(folder, 'package.json'))
  for (const entry of readdirSync(join(ROOT, 'dist'), { withFileTypes: true }))
    if (entry.isFile()) cpSync(join(ROOT, 'dist', entry.name), join(folder, 'dist', entry.name))
  for (const name of ['build', 'node_modules']) symlinkSync(join(ROOT, name), join(folder, name))
}
