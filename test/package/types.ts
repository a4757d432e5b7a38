import { cpSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Project } from './project.js'
import { ROOT } from './tarball.js'

const CONSUMERS = join(ROOT, 'test/package/consumers')

interface Compiler {
  readonly name: string
  readonly tsc: string
}

/** How a project's compiler finds packages, and what of the consumers it may then read. */
const RULES = {
  node16: { module: 'node16', files: ['consumer.mts', 'imports.cts'] },
  nodenext: { module: 'nodenext', files: ['consumer.mts', 'imports.cts', 'requires.cts'] },
  bundler: {
    module: 'preserve',
    moduleResolution: 'bundler',
    files: ['consumer.mts', 'imports.cts', 'requires.cts'],
  },
}

/** The one of this project, and the last that is written in JavaScript. */
function compilers(): Compiler[] {
  const load = createRequire(import.meta.url)
  return [load, createRequire(load.resolve('@microsoft/api-extractor'))].map(load => ({
    name: version(load),
    tsc: join(load.resolve('typescript/package.json'), '../bin/tsc'),
  }))
}

function version(load: NodeJS.Require): string {
  const manifest = JSON.parse(readFileSync(load.resolve('typescript/package.json'), 'utf8')) as {
    version: string
  }
  return `TypeScript ${manifest.version}`
}

/**
 * Compiles the consumers in a project that has the package, with its declarations checked too; with the older compiler, which is
 * slow, and under node16, which nodenext resembles, only if `all`. Returns the faults.
 */
export async function checkTypes(project: Project, all: boolean): Promise<string[]> {
  for (const name of ['consumer.mts', 'imports.cts', 'requires.cts'])
    project.write(name, readFileSync(join(CONSUMERS, name), 'utf8'))
  // Ours asks for them as an optional peer: who writes TypeScript for Node has them.
  for (const name of ['@types/node', 'undici-types'])
    cpSync(join(ROOT, 'node_modules', name), join(project.folder, 'node_modules', name), { recursive: true })
  const wrong: string[] = []
  for (const [name, rules] of Object.entries(RULES)) {
    const { files, ...resolution } = rules
    const config = project.write(
      `tsconfig.${name}.json`,
      JSON.stringify({
        compilerOptions: {
          ...resolution,
          target: 'es2022',
          lib: ['es2023', 'esnext.disposable'],
          types: ['node'],
          noEmit: true,
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          verbatimModuleSyntax: true,
          isolatedModules: true,
          skipLibCheck: false,
        },
        files,
      }),
    )
    if (name === 'node16' && !all) continue
    const [newest, ...older] = compilers()
    for (const { name: compiler, tsc } of [newest!, ...(all ? older : [])]) {
      const { code, text } = await project.run([process.execPath, tsc, '-p', config])
      if (code !== 0) wrong.push(`${compiler}, ${name}: ${text}`)
    }
  }
  return wrong
}
