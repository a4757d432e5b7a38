import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Marks of a file that looks at its own process: open descriptors, memory, timers, the event loop. */
const LOOKS_AT_ITS_PROCESS =
  /\bopenCount\b|\bopenFds\(process\.pid\)|\bOwnTimers\b|getTimerCount|\/proc\/self\/(?:fd'\)|task)|\bmemoryUsage\b|\bcollectGarbage\b|EventLoop/

/** Marks of a file that replaces modules. */
const REPLACES_MODULES = /vi\.(?:mock|doMock|resetModules)\(/

/** More such files: a process has the measured, loaded or observed object only once. */
const NAMED = [
  'test/native/**/*.test.ts',
  'test/simulate/**/*.test.ts',
  'test/unit/{kernel/addon,cli/early-signals,kernel/remainder,node/internals}.test.ts',
]

/** Patterns of the files that those before them in a process would disturb. */
export function ownProcess(project: string): string[] {
  return [...NAMED, ...filesWith(project, LOOKS_AT_ITS_PROCESS)]
}

/** The files that replace modules, for which the runner has to load the sources itself. */
export function replacingModules(project: string): string[] {
  return filesWith(project, REPLACES_MODULES)
}

function filesWith(project: string, mark: RegExp): string[] {
  return ['test/unit', 'test/e2e', 'test/property'].flatMap(folder =>
    readdirSync(join(project, folder), { recursive: true, encoding: 'utf8' })
      .map(name => `${folder}/${name}`)
      .filter(file => /\.test\.ts$/.test(file) && mark.test(readFileSync(join(project, file), 'utf8'))),
  )
}
