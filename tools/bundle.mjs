// @ts-check
// Bundles the modules that tsc has written to build/modules into dist/, which is published and which the end-to-end tests run:
//
//   index.js, proxy.js …            one file for each entry of `exports` in package.json: the names that it exports of library.cjs
//   library.cjs, load.cjs           all entries, each of which is evaluated when it is read, so that a process has each class and each variable once,
//                                   for example FdbError. load.cjs runs library.cjs with V8's code cache, once in each process: src/code-cache
//   modules/                        the same entries as ES modules, for an application's bundler (the condition `module`). Code of several
//                                   entries is in chunks (chunk-*.js)
//   auto.cjs, auto.js               fd-broker/auto for `node --require` and `node --import`: delays the program until the version that serves
//                                   knows of it. Small, because it loads the library only when needed
//   config-worker.js                the thread that reads a configuration of the proxy
//   started.cjs                     the preload of a successor: src/versions/output-preload.ts
//   cli.cjs, program.cjs            the command, which shares no files with the library. cli.cjs runs program.cjs with V8's code cache
//   msgpackr.cjs, js-yaml.cjs,      packages that the library loads on first use, by the names in `imports` of package.json. program.cjs has
//   prom-client.cjs                 its own copy of js-yaml, because it reads a configuration at each start
//   bundled.js, lazy.cjs            the entry `.` for an application's bundler, with the paths of these packages
//   convert.cjs                     `fd-broker convert`, with a parser of TOML
//   timeline.cjs                    draws `fd-broker upgrade --timeline`, in its page and as SVG: src/timeline, ECharts
//   types/                          declarations, see tools/declarations.mjs
//   THIRD-PARTY-NOTICES.txt         the licences of the packages whose code is in these files
//
// The package has no dependencies to install: the bundles contain them.
//
// Also writes build/bundle.json: which file contains which modules, and their imports. Does not write unchanged files.
//
// `node tools/bundle.mjs [--external PATTERN]`: does not bundle imports that match the pattern (the mutation tests change these modules).
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
 * The values that pino gets for these: Node's modules took 2 % of a start. The command has one thread, and does not use pino's transports and several outputs. Only a
 * transport needs the callers of pino, for which pino captures a stack.
 */
const REPLACED = {
  assert: '(holds, message) => { if (!holds) throw new Error(message) }',
  worker_threads: '{ isMainThread: true }',
  './lib/caller': '() => []',
}
const REPLACED_PATHS = /^(?:assert|worker_threads|\.\/(?:lib\/)?(?:caller|transport|multistream))$/

/**
 * Leaves out packages that no code uses: `thread-stream` and `@pinojs/redact` (transports and the option `redact` of pino), and `long` (inexact
 * 64-bit numbers of protobufjs). As part of the bundle, an empty `long` also keeps protobufjs from looking for the application's copy.
 * @type {import('esbuild').Plugin}
 */
const unused = {
  name: 'unused packages',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^(?:long|thread-stream|@pinojs\/redact)$/ }, ({ path }) => ({
      path,
      namespace: 'unused',
    }))
    // commander uses it only for commands that are separate programs.
    onResolve({ filter: /^node:child_process$/ }, ({ path, importer }) =>
      importer.includes('/commander/') ? { path, namespace: 'unused' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'unused' }, () => ({ contents: 'module.exports = undefined' }))
    onResolve({ filter: REPLACED_PATHS }, ({ path, importer }) =>
      /\/(?:pino|sonic-boom)\//.test(importer) ? { path, namespace: 'replaced' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'replaced' }, ({ path }) => ({
      contents: `module.exports = ${REPLACED[/** @type {keyof typeof REPLACED} */ (path)]}`,
    }))
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
  // Keeps names, so that stack traces show them.
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  logLevel: 'warning',
  external: flags.external,
  plugins: [unused],
  alias: {
    // The build without the native addon, which would need an install script.
    msgpackr: join(root, 'node_modules/msgpackr/index.js'),
    // The build as an ES module, from which esbuild leaves out unused code.
    'js-yaml': join(root, 'node_modules/js-yaml/dist/js-yaml.mjs'),
    // Without the metrics of the package itself, which need two more packages.
    'prom-client': join(root, 'node_modules/prom-client/lib/registry.js'),
  },
}

/** The exports that the library uses of each package in `imports` of package.json. */
const LAZY = {
  msgpackr: "export { Packr } from 'msgpackr'",
  'js-yaml':
    "export { constructFromEvents, CORE_SCHEMA, EVENT_ID, getScalarValue, parseEvents, SCALAR_STYLE, YAMLException } from 'js-yaml'",
  'prom-client': "export { default as Registry } from 'prom-client'",
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
 * Puts js-yaml into program.cjs, so that V8's code cache includes it. Still evaluates it on first use.
 * @type {import('esbuild').Plugin}
 */
const lazyWithin = {
  name: 'a lazy package within',
  setup({ onLoad, onResolve }) {
    const made = lazy.flatMap(({ outputFiles = [] }) => outputFiles)
    const text = made.find(({ path }) => basename(path) === 'js-yaml.cjs')?.text
    // The path has no .mjs: in an ES module `module.exports` would have no effect.
    onResolve({ filter: /^js-yaml$/ }, () => ({ path: 'js-yaml.cjs', namespace: 'within' }))
    onLoad({ filter: /./, namespace: 'within' }, () => ({ contents: text ?? '', loader: 'js' }))
    onLoad({ filter: /build\/modules\/base\/lazy\.js$/ }, ({ path }) => {
      const module = readFileSync(path, 'utf8')
      if (!module.includes(JS_YAML)) throw new Error(`${path} does not contain ${JS_YAML}`)
      return { contents: module.replace(JS_YAML, "require('js-yaml')"), resolveDir: dirname(path) }
    })
  },
}

/** The public entries by the names of their files, with the paths of their modules. */
const ENTRIES = {
  index: 'index.js',
  proxy: 'proxy/index.js',
  operator: 'operator.js',
  adapter: 'adapter.js',
  errors: 'errors.js',
  stores: 'stores/index.js',
  sources: 'sources/index.js',
  streams: 'streams/index.js',
  ws: 'ws/index.js',
  'socket-io': 'socket-io/index.js',
}

/** The exports of library.cjs: each module is evaluated when its property is read. */
const LIBRARY = Object.entries({
  ...ENTRIES,
  service: 'auto/service.js',
  stages: 'base/server-stage.js',
}).map(([name, path]) => `get ${JSON.stringify(name)}() { return require('./${path}') }`)

const entries = await build({
  ...common,
  entryPoints: {
    ...Object.fromEntries(
      Object.entries(ENTRIES).map(([name, path]) => [`modules/${name}`, join(modules, path)]),
    ),
    'config-worker': join(modules, 'proxy/config/config-worker.js'),
  },
  format: 'esm',
  splitting: true,
  chunkNames: 'modules/chunk-[hash]',
})

/**
 * Leaves the requires of other files in dist.
 * @type {import('esbuild').Plugin}
 */
const beside = {
  name: 'files beside',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/(?:load|library|program)\.cjs$/ }, ({ path }) => ({ path, external: true }))
  },
}

/**
 * Keeps the library out of auto.cjs, which takes it from load.cjs, see loadService in src/auto/auto.ts.
 * @type {import('esbuild').Plugin}
 */
const laterService = {
  name: 'the library, later',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^\.\/service\.js$/ }, ({ kind }) =>
      kind === 'dynamic-import' ? { path: 'service', namespace: 'later' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'later' }, () => ({
      contents: "module.exports = require('./load.cjs').library.service",
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
    plugins: [beside, unused, laterService],
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname' },
  }),
  build({
    ...common,
    entryPoints: { started: join(modules, 'versions/output-preload.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname' },
  }),
  build({
    ...common,
    entryPoints: { cli: join(modules, 'code-cache/main.js'), load: join(modules, 'code-cache/library.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    plugins: [beside, unused],
  }),
  build({
    ...common,
    stdin: { contents: `module.exports = {${LIBRARY}}`, resolveDir: modules, sourcefile: 'library' },
    entryNames: 'library',
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname' },
  }),
  build({
    ...common,
    entryPoints: { program: join(modules, 'cli/program.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    // The command starts 12 ms faster from one file than from the chunks of the entries.
    plugins: [unused, lazyWithin],
    // CommonJS has no import.meta.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname', 'import.meta.url': 'thisFile.url' },
    banner: {
      js: 'const thisFile = { get url() { return require("node:url").pathToFileURL(__filename).href } };',
    },
  }),
  build({
    ...common,
    entryPoints: { convert: join(modules, 'convert/convert.js') },
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    supported: { 'dynamic-import': false },
  }),
])

/** Draws a timeline: the page contains this script, and the command loads it for SVG. */
const drawing = await build({
  ...common,
  entryPoints: { timeline: join(modules, 'timeline/draw.js') },
  format: 'iife',
  globalName: 'fdBrokerTimeline',
  footer: { js: "if(typeof module==='object')module.exports=fdBrokerTimeline" },
  platform: 'browser',
  target: 'es2022',
  minify: true,
})

/** Contents of the files of dist by path. @type {Map<string, string>} */
const files = new Map()
/** @type {Record<string, unknown>} */
const inputs = {}
/** @type {Record<string, unknown>} */
const outputs = {}
for (const { outputFiles, metafile } of [...lazy, ...results]) {
  const written = (outputFiles ?? []).map(({ path, text }) => ({ name: relative(dist, path), text }))
  // A module that only exports from other modules becomes an empty chunk, which is removed with its imports.
  const empty = written
    .filter(({ text }) => text === '')
    .flatMap(({ name }) => [`import"./${name}";`, `import"./${basename(name)}";`])
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
// An ES module, because Node waits for its top-level await; a CommonJS module cannot delay the program.
files.set('auto.js', "import auto from './auto.cjs'\nawait auto.started\nexport const { ready } = auto\n")
files.set('types/auto.d.cts', 'export declare function ready(): void\n')
// An application's bundler follows these requires to the packages, so that its bundle contains them.
files.set('bundled.js', "import './lazy.cjs'\nexport * from './modules/index.js'\n")
for (const name of Object.keys(ENTRIES)) {
  const { exports: names = [] } = entries.metafile?.outputs[`dist/modules/${name}.js`] ?? {}
  files.set(
    `${name}.js`,
    `import load from './load.cjs'\nexport const { ${names.join(', ')} } = load.library['${name}']\n`,
  )
}
files.set(
  'lazy.cjs',
  "globalThis[Symbol.for('fd-broker.lazy')]=n=>n==='#msgpackr'?require('./msgpackr.cjs'):n==='#prom-client'?require('./prom-client.cjs'):require('./js-yaml.cjs')\n",
)
Object.assign(inputs, drawing.metafile?.inputs)
files.set('timeline.cjs', drawing.outputFiles?.[0]?.text ?? '')
files.set('THIRD-PARTY-NOTICES.txt', notices(root, Object.keys(inputs)))

for (const name of existsSync(dist) ? readdirSync(dist, { recursive: true, withFileTypes: true }) : []) {
  const path = join(name.parentPath, name.name)
  // tools/man-page.mjs writes fd-broker.1.
  if (name.isFile() && !files.has(relative(dist, path)) && name.name !== 'fd-broker.1') rmSync(path)
}
for (const [name, content] of files) {
  const path = join(dist, name)
  mkdirSync(dirname(path), { recursive: true })
  if (!existsSync(path) || readFileSync(path, 'utf8') !== content) writeFileSync(path, content)
}
for (const path of Object.values(bin)) chmodSync(join(root, String(path)), 0o755)
writeFileSync(join(root, 'build/bundle.json'), JSON.stringify({ inputs, outputs }))
