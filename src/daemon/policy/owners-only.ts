import { MAX_ENTRIES } from '../../holder/registry.js'
import type { ServiceLimits } from '../service/service-rules.js'
import type { Action, Allowed, Claims, Policy, ServicePolicy, Unserved, Who } from './policy.js'

export const ANYONE: Who = { owner: false, uid: null, gid: null, executable: null }
export const OWNER: Who = { ...ANYONE, owner: true }
export const OWNERS: readonly Who[] = [OWNER]

/** The limits of a service that no file names. */
export const LIMITS: ServiceLimits = {
  listeners: MAX_ENTRIES,
  descriptors: MAX_ENTRIES,
  members: 64,
  state: 2 ** 30,
}

/** A service's rules in a file; null or absent: none. */
export type GivenService = { readonly [A in Action]?: readonly Who[] | null } & {
  readonly claims?: Claims | null
  readonly limits?: { readonly [L in keyof ServiceLimits]: number | null } | null
  readonly unserved?: Unserved | 'hold' | null
}

/** `key`: where it is said; `base`: of what is not said. */
export function servicePolicy(key: string, given: GivenService, base?: ServicePolicy): ServicePolicy {
  const may = (action: Action): Allowed => {
    const said = given[action]
    return said
      ? allowed(`${key}.${action}`, said)
      : (base?.may[action] ?? allowed(`${key}.${action}`, OWNERS))
  }
  const { limits, unserved } = given
  const whole = base?.limits ?? LIMITS
  return {
    may: {
      join: may('join'),
      // A member has the state.
      follow: given.follow || !given.join ? may('follow') : may('join'),
      put: may('put'),
      claim: may('claim'),
      list: may('list'),
      remove: may('remove'),
      operate: may('operate'),
    },
    claims: given.claims ?? base?.claims ?? 'any',
    limits: {
      listeners: limits?.listeners ?? whole.listeners,
      descriptors: limits?.descriptors ?? whole.descriptors,
      members: limits?.members ?? whole.members,
      state: limits?.state ?? whole.state,
    },
    unserved: unserved === 'hold' ? null : (unserved ?? base?.unserved ?? null),
  }
}

export function allowed(key: string, who: readonly Who[]): Allowed {
  return { key, who }
}

/** The policy of a daemon without a configuration: its user and root may do everything, others nothing. */
export const OWNERS_ONLY: Policy = {
  services: new Map(),
  others: servicePolicy('default', {}),
  descriptors: servicePolicy('descriptors', {}),
  operate: allowed('daemon.operate', OWNERS),
}
