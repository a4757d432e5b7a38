import type { HookSettings } from '../../checks/hooks.js'
import { FdbError } from '../../errors.js'
import { MAX_ENTRIES } from '../../holder/registry.js'

/** An action of a process on a service. `join` includes returning and draining; `follow` means reading the state. */
export type Action = 'join' | 'follow' | 'put' | 'claim' | 'list' | 'remove' | 'operate'

/** Matches processes. A process matches if all given fields match. */
export interface ProcessMatch {
  /** Matches root and the daemon's user. */
  readonly owner: boolean
  readonly uid: number | null
  readonly gid: number | null
  /** Absolute path of the program that the process runs. */
  readonly executable: string | null
}

/** The processes that are allowed an action. */
export interface AllowList {
  /** The configuration key of this list: `services.shop.join`. */
  readonly key: string
  readonly who: readonly ProcessMatch[]
}

/** The action when a service has no members. Without such a rule the daemon keeps the service's descriptors and state for the next member. */
export interface Unserved {
  readonly afterMs: number
  /** `close` ends the service with its listeners and its state; `run` is a command line for `sh`. */
  readonly act: 'close' | { readonly run: string }
}

/** Whether a descriptor can be claimed by one process at a time, by several, or as each claim requests (`any`). */
export type Claims = 'any' | 'exclusive' | 'shared'

export interface ServicePolicy {
  readonly may: Readonly<Record<Action, AllowList>>
  readonly claims: Claims
  readonly limits: ServiceLimits
  readonly unserved: Unserved | null
  readonly hooks: HookSettings | null
}

export interface ServiceLimits {
  /** Listening sockets that members bring. */
  readonly listeners: number
  /** Listeners and other named descriptors. */
  readonly descriptors: number
  /** Processes that are connected as members: serving, joining, draining or standing by. */
  readonly members: number
  /** Bytes of the state; the daemon logs a warning above that. */
  readonly state: number
}

export function serviceLimitError(service: string, what: keyof ServiceLimits, most: number): FdbError {
  const [whose, key] =
    service === '' ? ['the daemon', 'descriptors.limit'] : [`the service "${service}"`, `limits.${what}`]
  return new FdbError(
    'ERR_FDB_SERVICE_LIMIT',
    `${whose} may have ${most} ${what} (${key} of the daemon's configuration) and has reached that limit`,
    { details: { service, limit: what, most } },
  )
}

/** The rights of other processes at a daemon. */
export interface Policy {
  /** The services with rules of their own, by name. */
  readonly services: ReadonlyMap<string, ServicePolicy>
  /** For all other services. */
  readonly others: ServicePolicy
  /** For descriptors that belong to no service. */
  readonly descriptors: ServicePolicy
  /** Upgrading, stopping or reloading the daemon itself. */
  readonly operate: AllowList
}

export const ANYONE: ProcessMatch = { owner: false, uid: null, gid: null, executable: null }
export const OWNER: ProcessMatch = { ...ANYONE, owner: true }

/** The default limits of a service. */
export const LIMITS: ServiceLimits = {
  listeners: MAX_ENTRIES,
  descriptors: MAX_ENTRIES,
  members: 64,
  state: 2 ** 30,
}

/** The rules of a service in the configuration file; null or absent if not given. */
export type ServiceConfig = { readonly [A in Action]?: readonly ProcessMatch[] | null } & {
  readonly claims?: Claims | null
  readonly limits?: { readonly [L in keyof ServiceLimits]: number | null } | null
  readonly unserved?: Unserved | 'hold' | null
  readonly hooks?: HookSettings | null
}

/** Returns the policy of a service. `key` is its configuration key; `base` has the values that `config` lacks. */
export function servicePolicy(key: string, config: ServiceConfig, base?: ServicePolicy): ServicePolicy {
  const may = (action: Action): AllowList => {
    const who = config[action]
    if (!who && base !== undefined) return base.may[action]
    return { key: `${key}.${action}`, who: who ?? [OWNER] }
  }
  const { limits, unserved } = config
  const whole = base?.limits ?? LIMITS
  return {
    may: {
      join: may('join'),
      // A process that may join gets the state anyway.
      follow: config.follow || !config.join ? may('follow') : may('join'),
      put: may('put'),
      claim: may('claim'),
      list: may('list'),
      remove: may('remove'),
      operate: may('operate'),
    },
    claims: config.claims ?? base?.claims ?? 'any',
    limits: {
      listeners: limits?.listeners ?? whole.listeners,
      descriptors: limits?.descriptors ?? whole.descriptors,
      members: limits?.members ?? whole.members,
      state: limits?.state ?? whole.state,
    },
    hooks: config.hooks ?? base?.hooks ?? null,
    unserved: unserved === 'hold' ? null : (unserved ?? base?.unserved ?? null),
  }
}

/** The policy of a daemon without a configuration: its user and root may do everything, others nothing. */
export const OWNERS_ONLY: Policy = {
  services: new Map(),
  others: servicePolicy('default', {}),
  descriptors: servicePolicy('descriptors', {}),
  operate: { key: 'daemon.operate', who: [OWNER] },
}
