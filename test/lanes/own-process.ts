import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** What a file looks at in the process that it runs in: open descriptors, memory, timers, the event loop, modules that it replaces. */
const LOOKS_AT_ITS_PROCESS =
  /\bopenCount\b|\bmemoryUsage\b|\bgc!?\(|EventLoop|useFakeTimers|vi\.(?:mock|doMock|resetModules)\(/

/** These too: what they measure, load or spy on is found once in a process. */
const NAMED = [
  'test/native/**/*.test.ts',
  'test/property/**/*.test.ts',
  'test/unit/{kernel/addon,cli/early-signals,kernel/remainder,node/internals}.test.ts',
]

/** Patterns of the files that those before them in a process would disturb. */
export function ownProcess(project: string): string[] {
  const looking = ['test/unit', 'test/e2e'].flatMap(folder =>
    readdirSync(join(project, folder), { recursive: true, encoding: 'utf8' })
      .map(name => `${folder}/${name}`)
      .filter(
        file =>
          /\.test\.ts$/.test(file) && LOOKS_AT_ITS_PROCESS.test(readFileSync(join(project, file), 'utf8')),
      ),
  )
  return [...NAMED, ...looking]
}
