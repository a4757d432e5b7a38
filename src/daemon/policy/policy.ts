import type { ServiceLimits } from '../service/service-rules.js'

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
