// @ts-check
// Extracts the public declarations of the package's entries from a folder with the declarations that tsc has written.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CompilerState, Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'

/** The TypeScript that api-extractor brings, because the package's own release has no API for programs. @type {any} */
const ts = createRequire(createRequire(import.meta.url).resolve('@microsoft/api-extractor'))('typescript')

/** @typedef {{ name: string, path: string }} Entry An entry's name, and the path of its declarations in the folder. */

/** Name of a temporary module that exports everything that the entries export. */
const ALL = 'all-entries'

export class Declarations {
  /** @type {string} */
  #root
  /** @type {string} */
  #folder
  /** @type {readonly Entry[]} */
  #entries
  /** @type {CompilerState | undefined} */
  #state

  /**
   * @param {string} root of the package
   * @param {string} folder
   * @param {readonly Entry[]} entries
   */
  constructor(root, folder, entries) {
    this.#root = root
    this.#folder = folder
    this.#entries = entries
  }

  /**
   * Returns files by path: `declarations.d.ts` with the declarations of all entries except `@internal` ones, and for each entry a file with the
   * names that it exports from there. So a class has the same type in all entries.
   * @returns {Map<string, string>}
   */
  rolledUp() {
    const all = join(this.#folder, `${ALL}.d.ts`)
    writeFileSync(
      all,
      this.#entries.map(({ path }) => `export * from './${path.replace(/\.d\.ts$/, '.js')}'\n`).join(''),
    )
    const made = mkdtempSync(join(tmpdir(), 'fdb-types-'))
    try {
      const file = join(made, 'declarations.d.ts')
      this.#extract(ALL, all, {
        dtsRollup: { enabled: true, untrimmedFilePath: '', publicTrimmedFilePath: file },
      })
      const text = readFileSync(file, 'utf8').replace(
        /^ *\/\* Excluded from this release type: .* \*\/\n/gm,
        '',
      )
      return new Map([
        ['declarations.d.ts', text],
        ...this.#entries.map(entry => /** @type {const} */ ([`${entry.name}.d.ts`, this.#names(entry)])),
      ])
    } finally {
      rmSync(made, { recursive: true })
      rmSync(all)
    }
  }

  /**
   * Returns api-extractor's reports of what each entry exports, by the entries' names.
   * @returns {Map<string, string>}
   */
  reports() {
    const made = mkdtempSync(join(tmpdir(), 'fdb-api-'))
    try {
      return new Map(
        this.#entries.map(({ name, path }) => {
          const report = { enabled: true, reportFileName: name, reportFolder: made, reportTempFolder: made }
          this.#extract(name, join(this.#folder, path), {
            apiReport: { ...report, reportVariants: ['public'], includeForgottenExports: true },
          })
          return [name, readFileSync(join(made, `${name}.public.api.md`), 'utf8')]
        }),
      )
    } finally {
      rmSync(made, { recursive: true })
    }
  }

  /**
   * @param {string} name
   * @param {string} file
   * @param {Partial<import('@microsoft/api-extractor').IConfigFile>} wanted
   */
  #extract(name, file, wanted) {
    const silent = { default: { logLevel: ExtractorLogLevel.None } }
    const config = ExtractorConfig.prepare({
      configObjectFullPath: undefined,
      packageJsonFullPath: join(this.#root, 'package.json'),
      configObject: {
        projectFolder: this.#root,
        mainEntryPointFilePath: file,
        newlineKind: 'lf',
        compiler: { overrideTsconfig: this.#compiler() },
        apiReport: { enabled: false },
        docModel: { enabled: false },
        dtsRollup: { enabled: false },
        tsdocMetadata: { enabled: false },
        messages: {
          compilerMessageReporting: { default: { logLevel: ExtractorLogLevel.Error } },
          extractorMessageReporting: silent,
          tsdocMessageReporting: silent,
        },
        ...wanted,
      },
    })
    this.#state ??= CompilerState.create(config, {
      additionalEntryPoints: this.#entries.map(({ path }) => join(this.#folder, path)),
    })
    const { errorCount } = Extractor.invoke(config, {
      localBuild: true,
      compilerState: this.#state,
      messageCallback: message => {
        // Hides the notices about the TypeScript version and about new reports.
        if (message.logLevel !== ExtractorLogLevel.Error) message.handled = true
      },
    })
    if (errorCount > 0) throw new Error(`the declarations of ${name} have ${errorCount} errors`)
  }

  #compiler() {
    return {
      compilerOptions: {
        target: 'ES2022',
        lib: ['ES2023', 'ESNext.Disposable'],
        module: 'NodeNext',
        moduleResolution: 'NodeNext',
        strict: true,
        exactOptionalPropertyTypes: true,
        types: ['node'],
      },
      files: this.#entries.map(({ path }) => join(this.#folder, path)),
    }
  }

  /** @param {Entry} entry */
  #names({ path }) {
    const program = /** @type {any} */ (this.#state).program
    const checker = program.getTypeChecker()
    const source = program.getSourceFile(join(this.#folder, path))
    const module = source && checker.getSymbolAtLocation(source)
    if (!module) throw new Error(`${path} is not a module`)
    const names = checker
      .getExportsOfModule(module)
      .map((/** @type {any} */ symbol) => `  ${isTypeOnly(checker, symbol) ? 'type ' : ''}${symbol.name},\n`)
      .sort()
    return `export {\n${names.join('')}} from './declarations.js'\n`
  }
}

/** @param {any} checker @param {any} symbol */
function isTypeOnly(checker, symbol) {
  /** @type {any[]} */
  const declarations = symbol.declarations ?? []
  if (
    declarations.some(
      node => ts.isExportSpecifier(node) && (node.isTypeOnly || node.parent.parent.isTypeOnly),
    )
  )
    return true
  const named = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  return (named.flags & ts.SymbolFlags.Value) === 0
}
