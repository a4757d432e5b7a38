import { mkdirSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { buildSync } from 'esbuild'

/** Below the project, where the addon is built too. The last part of the path stays `src`, so that stack traces name places as before. */
const COMPILED = 'build/src'

/**
 * Compiles the sources file by file, those whose time is not that of their compiled form, and returns the folder. Node loads them from there itself: a
 * runner that transforms each module, for each file of tests that has a process of its own, took a fifth of the suite's processor time.
 */
export function compileSources(project: string): string {
  const out = join(project, COMPILED)
  const sources = modulesBelow(join(project, 'src'), '.ts')
  const kept = new Set(sources)
  for (const stale of modulesBelow(out, '.js').filter(name => !kept.has(name)))
    rmSync(join(out, `${stale}.js`), { force: true })
  // Taken before the sources are read: what changes meanwhile is compiled again. An older file may have taken the place of a source.
  const times = new Map(sources.map(name => [name, modifiedMs(join(project, 'src', `${name}.ts`))]))
  const changed = sources.filter(name => times.get(name) !== modifiedMs(join(out, `${name}.js`)))
  if (changed.length === 0) return out
  const { outputFiles } = buildSync({
    absWorkingDir: project,
    entryPoints: changed.map(name => `src/${name}.ts`),
    outbase: 'src',
    outdir: COMPILED,
    format: 'esm',
    // Without it esbuild would replace process.env.NODE_ENV by a constant.
    platform: 'node',
    target: 'node20',
    sourcemap: 'inline',
    // Each process of tests reads all of it, and the sources are beside.
    sourcesContent: false,
    logLevel: 'error',
    write: false,
  })
  // Whole files only: another run of this checkout may read them now.
  for (const { path, contents } of outputFiles) {
    mkdirSync(dirname(path), { recursive: true })
    const whole = `${path}.${process.pid}`
    writeFileSync(whole, contents)
    const time = new Date(times.get(relative(out, path).replace(/\.js$/, ''))!)
    utimesSync(whole, time, time)
    renameSync(whole, path)
  }
  return out
}

/** Lists the files of a folder with this ending, without it; none if there is no folder. */
function modulesBelow(folder: string, ending: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter(name => name.endsWith(ending) && !name.endsWith('.d.ts'))
      .map(name => name.slice(0, -ending.length))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** The time of the last change in milliseconds; zero if there is no such file. */
function modifiedMs(path: string): number {
  return Math.round(statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0)
}
