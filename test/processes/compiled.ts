import { fileURLToPath } from 'node:url'

/**
 * Returns the file of a module of `src` that test/lanes/compiled-sources.ts has compiled, for a process that a test starts: tsx in its place
 * takes several times as much processor time as such a process itself.
 */
export function compiled(module: string): string {
  return fileURLToPath(new URL(`../../build/src/${module}.js`, import.meta.url))
}
