// @ts-check
// Makes dist/, which is what is published and what end-to-end tests run, of the modules that tsc has written to build/modules:
//
//   index, proxy, operator …        one file for each entry of `exports`; what they share is in chunks that they import, so that
//                                   there is one class FdbError and one of everything else, whatever was imported first
//   auto.cjs, auto.js               what `node --import` and `--require` load before a program: small, and for import it waits until it is known
//                                   whether another version serves; auto-service loads the library
//   config-worker                   the thread that reads a configuration
//   started.cjs                     what a successor is started with: src/versions/output-preload.ts
//   cli.cjs, program.cjs            the command, with all that only it uses: it is a program of its own, and shares nothing. The first
//                                   runs the second with what V8 has kept of it
//   msgpackr.cjs, js-yaml.cjs,      packages that are loaded when they are asked for: `imports` of package.json. The command has only js-yaml in
//   yaml.cjs                        its own file, too: what it reads a configuration with, at each start
//   bundled.js, lazy.cjs            the first entry as the bundler of an application finds it, and those packages by their paths
//   types/                          declarations, see tools/declarations.mjs
//   THIRD-PARTY-NOTICES.txt         the licences of packages whose code is in these files
//
// Nothing is installed beside it: what the library takes from npm (protobufjs) is in its files, too.
//
// It also writes build/bundle.json: which module is in which file, and what it imports. Files that are as they were are left alone.
//
// `node tools/bundle.mjs [--external PATTERN]`: what is imported by such a path stays an import (for tests that change sources).
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { notices } from './bundle/notices.mjs'
import { shorten } from './bundle/shorten.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const modules = join(root, 'build/modules')
const declarations = join(root, 'build/declarations')
const dist = join(root, 'dist')
const { values: flags } = parseArgs({
  options: { external: { type: 'string', multiple: true, default: [] } },
})

const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/**
 * Of pino the transports, each a thread, are not used. Of protobufjs 64-bit numbers are not, of which `long` is for those that are not
 * exact: without it, it does not look for a copy of the application's either.
 * @type {import('esbuild').Plugin}
 */
const unused = {
  name: 'unused packages',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^(?:long|thread-stream)$/ }, ({ path }) => ({ path, namespace: 'unused' }))
    // commander's, for commands that are programs of their own: there are none.
    onResolve({ filter: /^node:child_process$/ }, ({ path, importer }) =>
      importer.includes('/commander/') ? { path, namespace: 'unused' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'unused' }, () => ({ contents: 'module.exports = undefined' }))
  },
}

/** @type {import('esbuild').BuildOptions} */
const common = {
  absWorkingDir: root,
  outdir: dist,
  bundle: true,
  write: false,
  metafile: true,
  platform: 'node',
  target: 'node20.19',
  charset: 'ascii',
  // Names stay: a stack says where it was.
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  logLevel: 'warning',
  external: flags.external,
  plugins: [unused],
  alias: {
    // Without its native part, which an install script would have to bring.
    msgpackr: join(root, 'node_modules/msgpackr/index.js'),
    // As ES modules, of which what nobody asks for is left out.
    yaml: join(root, 'node_modules/yaml/browser/index.js'),
    'js-yaml': join(root, 'node_modules/js-yaml/dist/js-yaml.mjs'),
  },
}

/** Packages by the names that `imports` of package.json gives them, and what of them is used. */
const LAZY = {
  msgpackr: "export { Packr } from 'msgpackr'",
  'js-yaml': "export { CORE_SCHEMA, load } from 'js-yaml'",
  yaml: "export { isAlias, isMap, isScalar, isSeq, LineCounter, parse, parseDocument, visit } from 'yaml'",
}

const lazy = await Promise.all(
  Object.entries(LAZY).map(([name, contents]) =>
    build({
      ...common,
      stdin: { contents, resolveDir: root, sourcefile: name },
      entryNames: name,
      format: 'cjs',
      outExtension: { '.js': '.cjs' },
    }),
  ),
)

const JS_YAML = "load('#js-yaml')"

/**
 * The command is one file and reads its configuration at each start: it has js-yaml inside, where V8's code cache keeps it, and evaluates it when it
 * is asked for.
 * @type {import('esbuild').Plugin}
 */
const lazyWithin = {
  name: 'a lazy package within',
  setup({ onLoad }) {
    const made = lazy.flatMap(({ outputFiles = [] }) => outputFiles)
    const text = made.find(({ path }) => basename(path) === 'js-yaml.cjs')?.text
    onLoad({ filter: /node_modules\/js-yaml\/dist\/js-yaml\.mjs$/ }, () => ({
      contents: text ?? '',
      loader: 'js',
    }))
    onLoad({ filter: /build\/modules\/base\/lazy\.js$/ }, ({ path }) => {
      const module = readFileSync(path, 'utf8')
      if (!module.includes(JS_YAML)) throw new Error(`${path} does not say ${JS_YAML}`)
      return { contents: module.replace(JS_YAML, "require('js-yaml')"), resolveDir: dirname(path) }
    })
  },
}

const entries = await build({
  ...common,
  entryPoints: {
    index: join(modules, 'index.js'),
    proxy: join(modules, 'proxy/index.js'),
    operator: join(modules, 'operator.js'),
    adapter: join(modules, 'adapter.js'),
    errors: join(modules, 'errors.js'),
    stores: join(modules, 'stores/index.js'),
    'auto-service': join(modules, 'auto/service.js'),
    'config-worker': join(modules, 'proxy/config/config-worker.js'),
  },
  format: 'esm',
  splitting: true,
  chunkNames: 'chunk-[hash]',
})

/** The files of an entry, each after those that it imports. @param {string} entry */
function filesOf(entry) {
  /** @type {Set<string>} */
  const visited = new Set()
  /** @type {string[]} */
  const ordered = []
  const visit = (/** @type {string} */ path) => {
    if (visited.has(path)) return
    visited.add(path)
    const { bytes = 0, imports = [] } = entries.metafile?.outputs[path] ?? {}
    for (const { path: next, kind } of imports) if (kind === 'import-statement') visit(next)
    if (bytes > 0) ordered.push(`./${basename(path)}`)
  }
  visit(`dist/${entry}.js`)
  return ordered
}

/**
 * What is preloaded has the library as files of their own, the chunks of the entries.
 * @type {import('esbuild').Plugin}
 */
const laterService = {
  name: 'the library, later',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^\.\/service\.js$/ }, ({ kind }) =>
      kind === 'dynamic-import' ? { path: './auto-service.js', external: true } : undefined,
    )
    onLoad({ filter: /build\/modules\/auto\/library-files\.js$/ }, () => ({
      contents: `export const LIBRARY_FILES = ${JSON.stringify(filesOf('auto-service'))}`,
    }))
  },
}

const results = await Promise.all([
  entries,
  build({
    ...common,
    entryPoints: { auto: join(modules, 'auto/index.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    plugins: [unused, laterService],
    define: { 'import.meta.dirname': '__dirname' },
  }),
  build({
    ...common,
    entryPoints: { started: join(modules, 'versions/output-preload.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    // A successor loads it before anything else, for the two names that it shares with the library.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname' },
  }),
  build({
    ...common,
    entryPoints: { cli: join(modules, 'code-cache/main.js'), program: join(modules, 'cli/main.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    // A command is a process of its own, and 12 ms faster with one file than with those that the library's entries share.
    plugins: [unused, lazyWithin],
    // CommonJS has no import.meta.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname', 'import.meta.url': 'thisFile.url' },
    banner: {
      js: 'const thisFile = { get url() { return require("node:url").pathToFileURL(__filename).href } };',
    },
  }),
])

/** What lies in dist, by its path there. @type {Map<string, string>} */
const files = new Map()
/** @type {Record<string, unknown>} */
const inputs = {}
/** @type {Record<string, unknown>} */
const outputs = {}
for (const { outputFiles, metafile } of [...lazy, ...results]) {
  const written = (outputFiles ?? []).map(({ path, text }) => ({ name: relative(dist, path), text }))
  // A module that only exports what others have becomes an empty chunk.
  const empty = written.filter(({ text }) => text === '').map(({ name }) => `import"./${name}";`)
  for (const { name, text } of written) {
    if (text === '') continue
    const whole = empty.reduce((rest, statement) => rest.replace(statement, ''), text)
    files.set(name, await shorten(name, whole))
  }
  Object.assign(inputs, metafile?.inputs)
  Object.assign(outputs, metafile?.outputs)
}
for (const name of existsSync(declarations) ? readdirSync(declarations) : [])
  if (name.endsWith('.d.ts')) files.set(join('types', name), readFileSync(join(declarations, name), 'utf8'))
// A CommonJS module cannot make its importer wait.
files.set('auto.js', "import auto from './auto.cjs'\nawait auto.started\nexport const { ready } = auto\n")
files.set('types/auto.d.cts', 'export declare function ready(): void\n')
// The bundler of an application follows these to the packages that the library loads when they are asked for.
files.set('bundled.js', "import './lazy.cjs'\nexport * from './index.js'\n")
files.set(
  'lazy.cjs',
  "globalThis[Symbol.for('fd-broker.lazy')]=n=>n==='#msgpackr'?require('./msgpackr.cjs'):n==='#yaml'?require('./yaml.cjs'):require('./js-yaml.cjs')\n",
)
files.set('THIRD-PARTY-NOTICES.txt', notices(root, Object.keys(inputs)))

for (const name of existsSync(dist) ? readdirSync(dist, { recursive: true, withFileTypes: true }) : []) {
  const path = join(name.parentPath, name.name)
  // tools/man-page.mjs makes it.
  if (name.isFile() && !files.has(relative(dist, path)) && name.name !== 'fd-broker.1') rmSync(path)
}
for (const [name, content] of files) {
  const path = join(dist, name)
  mkdirSync(dirname(path), { recursive: true })
  if (!existsSync(path) || readFileSync(path, 'utf8') !== content) writeFileSync(path, content)
}
for (const path of Object.values(bin)) chmodSync(join(root, String(path)), 0o755)
writeFileSync(join(root, 'build/bundle.json'), JSON.stringify({ inputs, outputs }))
