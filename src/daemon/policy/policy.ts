import { FdbError } from '../../errors.js'
import { MAX_ENTRIES } from '../../holder/registry.js'

/** A request of a process to a service. `join` is also to come back, and to drain; `follow` to read its state. */
export type Action = 'join' | 'follow' | 'put' | 'claim' | 'list' | 'remove' | 'operate'

/** Processes of one kind: all that is given must be true of one. */
export interface Who {
  /** The daemon's user, or root. */
  readonly owner: boolean
  readonly uid: number | null
  readonly gid: number | null
  /** Absolute path of the program that it runs. */
  readonly executable: string | null
}

/** The processes that may do something; all others may not. */
export interface Allowed {
  /** Where that is said: `services.shop.join`. */
  readonly key: string
  readonly who: readonly Who[]
}

/** The fate of a service without members; null: it is held for the next one. */
export interface Unserved {
  readonly afterMs: number
  /** Ended, with its listeners and its state; or a command line for `sh`. */
  readonly act: 'close' | { readonly run: string }
}

/** Whether one process at a time may claim a descriptor, or as many as want; `any`: as is asked for. */
export type Claims = 'any' | 'exclusive' | 'shared'

export interface ServicePolicy {
  readonly may: Readonly<Record<Action, Allowed>>
  readonly claims: Claims
  readonly limits: ServiceLimits
  readonly unserved: Unserved | null
}

/** How much a service may have of its daemon. */
export interface ServiceLimits {
  /** Listening sockets that members bring. */
  readonly listeners: number
  /** Listeners and other named descriptors. */
  readonly descriptors: number
  /** Processes that are connected as its members: the one that serves, its successor, and those that drain or stand by. */
  readonly members: number
  /** Bytes of its state: of more the log tells. */
  readonly state: number
}

/** `most`: the limit, which one more would exceed. */
export function overLimit(service: string, what: keyof ServiceLimits, most: number): FdbError {
  const whose = service === '' ? 'the daemon' : `the service "${service}"`
  return new FdbError(
    'ERR_FDB_SERVICE_LIMIT',
    `${whose} may have ${most} ${what} (limits.${what} of the daemon's configuration), and this would be one more`,
    { details: { service, limit: what, most } },
  )
}

/** The rights of other processes at a daemon. */
export interface Policy {
  /** By name. */
  readonly services: ReadonlyMap<string, ServicePolicy>
  /** For every service that is not named. */
  readonly others: ServicePolicy
  /** For descriptors that belong to no service. */
  readonly descriptors: ServicePolicy
  /** Upgrading, stopping or reloading the daemon itself. */
  readonly operate: Allowed
}

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
