import { createRequire } from 'node:module'

/** The TypeScript that api-extractor brings: the package's own release has no API for programs. Most processes of the simulation need none. */
const typescript = () =>
  createRequire(createRequire(import.meta.url).resolve('@microsoft/api-extractor'))('typescript')

const CHANGES = /^(?:new\s|\[\]|\{\})/
/** A set or map that is filled where it is declared. */
const TABLE = /^new (?:Set|Map)(?:<.+?>)?\((?!\))/

/** A variable that a module declares outside of its functions. */
export interface ModuleVariable {
  readonly name: string
  readonly keyword: 'let' | 'const'
  /** Where the keyword stands. */
  readonly at: number
  /** The text of its first value. */
  readonly first: string
  /** The variable can be assigned, or its first value is an object that code changes: `new Map()`, `[]`, `{}`. */
  readonly mutable: boolean
}

export function moduleVariables(text: string): ModuleVariable[] {
  const ts = typescript()
  const source = ts.createSourceFile('module.ts', text, ts.ScriptTarget.Latest, true)
  const variables: ModuleVariable[] = []
  for (const statement of source.statements) {
    if (!ts.isVariableStatement(statement)) continue
    const list = statement.declarationList
    const keyword = list.flags & ts.NodeFlags.Let ? 'let' : 'const'
    for (const { name, initializer } of list.declarations) {
      const first: string = initializer?.getText() ?? 'undefined'
      const mutable = keyword === 'let' || (CHANGES.test(first) && !TABLE.test(first))
      variables.push({ name: name.getText(), keyword, at: list.getStart(), first, mutable })
    }
  }
  return variables
}

/** Moves module-level variables into slots: see slots.ts. */
export function withSlots(text: string, names: readonly string[]): string {
  const variables = moduleVariables(text).filter(({ name }) => names.includes(name))
  if (variables.length < names.length)
    throw new Error(`own-state.ts names variables that do not exist: ${names}`)
  const slots = variables.map(
    ({ name, first }) =>
      `\n__simulated.addSlot(() => { ${name} = ${first} }, () => ${name}, value => { ${name} = value })`,
  )
  const lets = variables.toReversed().reduce((result, { at, keyword }) => {
    return `${result.slice(0, at)}let${result.slice(at + keyword.length)}`
  }, text)
  return lets + slots.join('')
}
