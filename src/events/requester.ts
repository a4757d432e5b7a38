import { executableOf } from '../kernel/index.js'

/** The process that has sent an order, as the kernel reports it. */
export interface Requester {
  /** 0 in another PID namespace. */
  readonly pid: number
  readonly uid: number
  readonly gid?: number
  /** The file that the process executes, if this process may see it. */
  readonly executable?: string
}

/** Returns the facts of the event of an order: its sender, with the file that the sender executes, if this process may see it. */
export function orderFacts(by: Requester | undefined): { readonly by?: Requester } {
  if (by === undefined) return {}
  const { pid, uid, gid } = by
  const executable = pid > 0 ? executableOf(pid) : null
  return { by: { pid, uid, ...(gid !== undefined && { gid }), ...(executable !== null && { executable }) } }
}
