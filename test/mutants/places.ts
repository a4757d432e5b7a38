import { parseAst } from 'vitest/node'
import { semanticMistakes } from './semantic.js'

/** One small mistake that could be made in one place of a source. */
export interface Mutant {
  /** An offset in the source's text. */
  readonly start: number
  readonly end: number
  readonly form: 'expression' | 'statement'
  /** The text that replaces it; '': the statement is left out. */
  readonly text: string
  readonly kind: string
  /** The function that it is in, with its class: `ConnectionSender.#prepare`; '' at the top. */
  readonly within: string
}

/** A function with a body, by the name that {@link Mutant.within} has. */
export interface FunctionBody {
  readonly name: string
  /** Behind the brace. */
  readonly start: number
}

export interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  // biome-ignore lint/suspicious/noExplicitAny: nodes have fields by their type
  readonly [field: string]: any
}

const OTHER_OPERATOR = new Map(
  Object.entries({
    '&&': '||',
    '||': '&&',
    '<': '>=',
    '<=': '>',
    '>': '<=',
    '>=': '<',
    '===': '!==',
    '!==': '===',
    '+': '-',
    '-': '+',
  }),
)
const OTHER_NAME = new Map(Object.entries({ some: 'every', every: 'some', min: 'max', max: 'min' }))
/** Left out they change nothing that is promised, or only when something is freed. */
const QUIET =
  /^(?:clear(?:Timeout|Immediate|Interval)|.*\b(?:unref|ref|debug|info|warn|error|note|fault)\??\.?)$/
/** One more or less of these is no mistake. */
const CLOCK = /\bnow\(|Ms\b|_MS\b|\b(?:at|since|until|deadline)\b/i

/** `small`: an operator, a constant or a statement is another one. `semantic`: mistakes of a driver, see {@link semanticMistakes}. */
export type Operators = 'small' | 'semantic'

/** All places of one source. Code that only says something (messages, the log, types) has none. */
export class Places {
  readonly mutants: Mutant[] = []
  readonly functions: FunctionBody[] = []
  readonly #source: string
  readonly #operators: Operators
  readonly #names: string[] = []

  constructor(source: string, operators: Operators = 'small') {
    this.#source = source
    this.#operators = operators
    this.#visit(parseAst(source, { lang: 'ts' }) as unknown as Node, '')
  }

  #visit(node: Node, field: string): void {
    if (isWords(node)) return
    const name = this.#nameOf(node, field)
    if (name !== null) this.#names.push(name)
    if (this.#operators === 'small') this.#look(node)
    else this.#lookAsDriver(node)
    for (const [key, value] of Object.entries(node)) {
      for (const child of Array.isArray(value) ? value : [value])
        if (isNode(child)) this.#visit(child, named(node, key))
    }
    if (name !== null) this.#names.pop()
  }

  #nameOf(node: Node, field: string): string | null {
    if (node.type === 'ClassDeclaration') return node.id?.name ?? 'class'
    if (!/Function/.test(node.type)) return null
    const own = node.id?.name ?? field
    if (own === '' && this.#names.length > 0) return null
    if (node.body?.type === 'BlockStatement')
      this.functions.push({ name: [...this.#names, own].join('.'), start: node.body.start + 1 })
    return own
  }

  #add(node: Node, kind: string, text: string, form: Mutant['form'] = 'expression'): void {
    this.mutants.push({ start: node.start, end: node.end, form, text, kind, within: this.#names.join('.') })
  }

  #text({ start, end }: Node): string {
    return this.#source.slice(start, end)
  }

  #look(node: Node): void {
    switch (node.type) {
      case 'ExpressionStatement':
        this.#statement(node)
        return
      case 'IfStatement':
        this.#add(node.test, 'never', 'false')
        this.#add(node.test, 'always', 'true')
        return
      case 'ConditionalExpression':
        this.#add(node.test, 'the other way', `!(${this.#text(node.test)})`)
        return
      case 'LogicalExpression':
      case 'BinaryExpression':
        this.#operator(node)
        return
      case 'Literal':
        if (typeof node.value === 'boolean') this.#add(node, 'the other answer', String(!node.value))
        return
      case 'CallExpression':
        this.#call(node)
        return
      case 'VariableDeclarator':
        this.#constant(node)
    }
  }

  /** A constructor has no such places: it mostly sets what nothing has used yet. */
  #lookAsDriver(node: Node): void {
    const within = this.#names.join('.')
    if (within.endsWith('.constructor')) return
    for (const mistake of semanticMistakes(node, each => this.#text(each)))
      this.mutants.push({ ...mistake, within })
  }

  #statement({ start, end, expression }: Node): void {
    let call = expression
    if (call.type === 'UnaryExpression' || call.type === 'AwaitExpression') call = call.argument
    if (call.type === 'ChainExpression') call = call.expression
    const { type, callee } = call
    if (type === 'CallExpression' && (callee.type === 'Super' || QUIET.test(this.#text(callee)))) return
    if (!/^(?:Call|Assignment|Update|Await)Expression$/.test(type)) return
    this.#add({ type, start, end }, 'left out', '', 'statement')
  }

  #operator(node: Node): void {
    const { operator, left, right } = node
    const other = OTHER_OPERATOR.get(operator)
    if (other === undefined) return
    if (operator.length < 3 && !/[&|]/.test(operator)) {
      if (CLOCK.test(this.#text(node))) return
      if ([left, right].some(({ type, value }) => type === 'TemplateLiteral' || typeof value === 'string'))
        return
    }
    // A side may hold `??`, which does not mix with the other two.
    this.#add(node, other, `(${this.#text(left)}) ${other} (${this.#text(right)})`)
  }

  /** A time, a size, a number of attempts: another by far. */
  #constant({ id, init }: Node): void {
    if (!/^[A-Z][A-Z0-9_]*$/.test(id.name ?? '') || init === null) return
    const text = this.#text(init)
    if (/^[\d_]+(?:\.\d+)?(?: \* [\d_]+)*$/.test(text))
      this.#add(init, 'another constant', `(${text}) * 16 + 1`)
  }

  #call({ callee, start, end, type }: Node): void {
    const other = OTHER_NAME.get(callee.property?.name)
    if (other === undefined) return
    const { property } = callee
    const text = this.#source.slice(start, property.start) + other + this.#source.slice(property.end, end)
    this.#add({ type, start, end }, other, text)
  }
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && typeof (value as Node).type === 'string'
}

/** The name that a function gets from where it stands. */
function named(node: Node, key: string): string {
  if (key === 'value' && /^(?:MethodDefinition|PropertyDefinition|Property)$/.test(node.type)) {
    const { type, name = '' } = node.key
    return type === 'PrivateIdentifier' ? `#${name}` : name
  }
  return key === 'init' && node.type === 'VariableDeclarator' ? (node.id.name ?? '') : ''
}

function isWords({ type, callee, start, end }: Node): boolean {
  if (/^TS(?!As|NonNull|Satisfies|Parameter)/.test(type) || /^(?:Import|Export(?:All|Default))/.test(type))
    return true
  if (type === 'TemplateLiteral') return true
  if (type === 'NewExpression') return /Error$/.test(callee.name ?? '')
  if (type === 'CallExpression' && callee.type === 'MemberExpression')
    return /^(?:debug|info|warn|error)$/.test(callee.property.name ?? '')
  return start === end
}
