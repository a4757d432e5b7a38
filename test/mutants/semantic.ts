import type { Mutant, Node } from './places.js'

/** A mistake at a node; the function that it is in is known to the caller. */
export type Mistake = Omit<Mutant, 'within'>

/** Calls that cancel a timer, a watch or a limit. */
const CANCELS =
  /^(?:clear(?:Timeout|Immediate|Interval)|.*(?:[tT]imer|[lL]imit|[wW]atch|[tT]icks)\??\.(?:clear|close|stop))$/
/** Calls without an effect that is promised. */
const QUIET = /\b(?:unref|ref|debug|info|warn|error|note|fault)\??\.?$/
/** Calls that throw if a right has ended. */
const DEMANDS = /(?:\.|^)#?(?:demand|refuse|require|check|throwIfAborted)\w*$/
/** Names in a check of a continuation that its right has not ended meanwhile. */
const RIGHTS =
  /\b(?:is|has|may)[A-Z]\w*|\b(?:open|over|closed|closing|ended|aborted|settled|died|forgotten|paused|phase|owner|left)\b/
/** Calls that get a function for later. */
const LATER = /^(?:on|once|watch|addEventListener|setTimeout|setImmediate|setInterval)$/
/** Properties that are functions for events. */
const EVENTS = /^(?:message|bundle|end|ended|broken|error|channel|close|closed|changed|restored|blocked)$/
const EMPTY = /^(?:false|null|undefined|0|''|\[\]|Number\.POSITIVE_INFINITY)$/

/**
 * Returns the mistakes that a driver can have at this node: an effect that is not awaited, made twice, in the wrong order, or not undone; a
 * check that is skipped; an event that is ignored.
 */
export function semanticMistakes(node: Node, text: (node: Node) => string): Mistake[] {
  const mistakes: Mistake[] = []
  const add = (at: Pick<Node, 'start' | 'end'>, kind: string, by = '', form: Mistake['form'] = 'statement') =>
    mistakes.push({ start: at.start, end: at.end, form, text: by, kind })
  const ignore = (fn: Node) => {
    const { body } = fn
    if (body.type !== 'BlockStatement') add(body, 'event ignored', 'undefined', 'expression')
    else if (body.body.length > 0) add(span(body.body), 'event ignored')
  }
  switch (node.type) {
    case 'ExpressionStatement':
      effect(node)
      break
    case 'BlockStatement':
      for (const [i, first] of node.body.entries()) {
        const second = node.body[i + 1]
        // The order of two assignments rarely matters.
        const calls = [first, second].some(each => each && calleeOf(each.expression ?? each, text) !== null)
        if (second !== undefined && calls && isEffect(first, text) && isEffect(second, text))
          add(span([first, second]), 'swapped', `${text(second)};\n${text(first)}`)
      }
      break
    case 'IfStatement':
      if (node.alternate !== null) break
      if (isExit(node.consequent)) {
        if (RIGHTS.test(text(node.test))) add(node.test, 'check skipped', 'false', 'expression')
      } else if (/[pP]hase/.test(text(node.test)))
        add(node.test, 'event ignored in a phase', 'false', 'expression')
      break
    case 'SwitchCase': {
      const last = node.consequent.at(-1)
      const work = last !== undefined && isExit(last) ? node.consequent.slice(0, -1) : node.consequent
      if (work.length > 0 && work.every((each: Node) => isEffect(each, text)))
        add(span(work), 'event ignored')
      break
    }
    case 'TryStatement':
      if (node.finalizer?.body.length > 0) add(span(node.finalizer.body), 'not tidied up')
      break
    case 'CallExpression':
      if (LATER.test(node.callee.property?.name ?? node.callee.name ?? ''))
        for (const argument of node.arguments) if (isFunction(argument)) ignore(argument)
      break
    case 'Property':
      if (isFunction(node.value) && EVENTS.test(node.key.name ?? '')) ignore(node.value)
  }
  return mistakes

  function effect(statement: Node): void {
    const { expression } = statement
    if (expression.type === 'AssignmentExpression') {
      if (expression.operator === '=' && EMPTY.test(text(expression.right))) add(statement, 'flag not reset')
      return
    }
    const callee = calleeOf(expression, text)
    if (callee === null) return
    if (CANCELS.test(callee)) add(statement, 'timer not cancelled')
    else if (DEMANDS.test(callee)) add(statement, 'check skipped')
    else if (!QUIET.test(callee)) add(statement, 'done twice', `${text(statement)};\n${text(statement)}`)
    if (expression.type === 'AwaitExpression')
      add(expression, 'not awaited', text(expression.argument), 'expression')
  }
}

/** Returns the called function of a call, awaited or not; null for another expression. */
function calleeOf(expression: Node, text: (node: Node) => string): string | null {
  let call = expression
  if (call.type === 'UnaryExpression' || call.type === 'AwaitExpression') call = call.argument
  if (call.type === 'ChainExpression') call = call.expression
  return call.type === 'CallExpression' && call.callee.type !== 'Super' ? text(call.callee) : null
}

/** Whether a statement only calls a function or assigns a value. */
function isEffect({ type, expression }: Node, text: (node: Node) => string): boolean {
  if (type !== 'ExpressionStatement') return false
  if (expression.type === 'AssignmentExpression') return true
  const callee = calleeOf(expression, text)
  return callee !== null && !QUIET.test(callee)
}

function isExit({ type, body = [] }: Node): boolean {
  if (type === 'BlockStatement') return body.length === 1 && isExit(body[0])
  return /^(?:Return|Throw|Continue|Break)Statement$/.test(type)
}

function isFunction({ type }: Node): boolean {
  return type === 'ArrowFunctionExpression' || type === 'FunctionExpression'
}

function span(nodes: readonly Node[]): Pick<Node, 'start' | 'end'> {
  return { start: nodes[0]!.start, end: nodes.at(-1)!.end }
}
