import { Draft } from './draft.js'
import { HttpServers } from './nginx-http.js'
import { translateStream } from './nginx-stream.js'
import { type Directive, type Included, parseNginx } from './nginx-syntax.js'
import { HANDLED, otherDirective, withoutEffect } from './nginx-values.js'

/** Translates a configuration of nginx: a whole one, or a file of `sites-enabled`. Throws ERR_FDB_CONFIG if nginx would not read it. */
export function fromNginx(text: string, file: string, included: Included): Draft {
  const draft = new Draft()
  const top = parseNginx(text, file, included)
  const whole = top.some(({ name }) => name === 'http' || name === 'stream' || name === 'events')
  if (!whole) new HttpServers(draft, top).translate()
  for (const directive of whole ? top : []) {
    const { name, args, block } = directive
    if (name === 'http' && block !== null) {
      draft.said(directive)
      new HttpServers(draft, block).translate()
    } else if (name === 'stream' && block !== null) {
      draft.said(directive)
      translateStream(draft, block)
    } else if (name === 'events') draft.own(directive, 'the proxy chooses')
    else if (name === 'worker_processes') {
      draft.said(directive)
      if (args[0] !== '1') draft.set('workers', args[0] === 'auto' ? 'auto' : Number(args[0]))
    }
  }
  markRest(draft, top, withoutEffect(top))
  return draft
}

/** Says what became of the directives that no rule has looked at. `lost`: why those that a rule could use are not used. */
function markRest(
  draft: Draft,
  directives: readonly Directive[],
  withoutEffectOf: (directive: Directive) => string | null,
  lost: string | null = null,
  hasFiles = has(directives, /^(?:root|alias)$/),
): void {
  for (const directive of directives) {
    const { name, args, block } = directive
    if (!draft.has(directive)) {
      if (name === 'include') included(draft, directive)
      else if (name === 'location' && args[0]!.startsWith('@'))
        draft.missing(
          directive,
          isPage(directives, args[0]!)
            ? 'only an error_page leads to it'
            : 'there are no named locations, except after try_files',
        )
      else if (name === 'try_files' && args.at(-1)?.startsWith('@') === true && !hasFiles)
        draft.near(directive, 'no files are tried')
      else if (name === 'access_log' && args[0] === 'off')
        if (draft.get('accessLog') === true) draft.missing(directive, 'the log has all requests')
        else draft.own(directive, 'there is no log unless accessLog is true')
      else if (HANDLED.has(name)) {
        if (lost === null) draft.own(directive, 'nothing uses it')
        else draft.missing(directive, lost)
        if (name === 'upstream') for (const each of block ?? []) draft.own(each, 'nothing uses it')
      } else otherDirective(draft, directive, withoutEffectOf(directive), lost)
    }
    if (block === null || name === 'types') continue
    const within = (name === 'location' || name === 'if') && draft.outcomeOf(directive) === 'missing'
    markRest(draft, block, withoutEffectOf, within ? `its ${name} has no counterpart` : lost, hasFiles)
  }
}

/** Whether an `error_page` leads to a named location. */
function isPage(directives: readonly Directive[], name: string): boolean {
  return directives.some(
    each => (each.name === 'error_page' && each.args.at(-1) === name) || isPage(each.block ?? [], name),
  )
}

/** Whether one of the directives, or one within them, has such a name. */
function has(directives: readonly Directive[], name: RegExp): boolean {
  return directives.some(each => name.test(each.name) || (each.block !== null && has(each.block, name)))
}

/** Files with types of files, or parameters for other protocols, say nothing to a proxy. */
const FOR_OTHERS = /(?:mime\.types|_params|\.conf-dist)$/

function included(draft: Draft, directive: Directive): void {
  if (directive.absent === undefined) draft.said(directive)
  else if (FOR_OTHERS.test(directive.args[0]!)) draft.own(directive, 'the proxy serves no files')
  else draft.missing(directive, 'there is no such file: guards in it are missing too')
}
