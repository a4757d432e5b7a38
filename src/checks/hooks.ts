import { absent, optional } from './shape.js'
import { InvalidValue, text, type ValueCheck } from './values.js'

/** The outcomes of an upgrade that have a hook. */
export type HookName = 'success' | 'failure' | 'rollback'

/** Commands for `sh`, or URLs that get a POST. */
export type HookSettings = { readonly [Name in HookName]: string | undefined } & { readonly timeout: number }

/** The hook is a webhook, not a command. */
export const WEBHOOK = /^https?:\/\//i

const hook = text('a command for sh, or a URL', given => {
  if (given.trim() === '') return new InvalidValue('it is empty; write a command for sh, or a URL')
  return WEBHOOK.test(given) && !URL.canParse(given) ? new InvalidValue(`${given} is no URL`) : given
})

/** Returns the keys of hooks. `time`: the check of their limit, and its default. */
export function hooksShape<T>(...time: [check: ValueCheck<number, T>, preset: T]) {
  return {
    success: absent(hook, undefined, 'when the probation of the next version is over'),
    failure: absent(
      hook,
      undefined,
      'when an upgrade has failed before the commit, or a next version is refused',
    ),
    rollback: absent(hook, undefined, 'when the previous version serves again'),
    timeout: optional(...time, 'limit of a hook: then its process group is killed'),
  }
}
