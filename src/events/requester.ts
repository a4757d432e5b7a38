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

/** Adds the file that the process executes, if this process may see it. */
export function withExecutable({ pid, uid, gid }: Requester): Requester {
  const executable = pid > 0 ? executableOf(pid) : null
  return { pid, uid, ...(gid !== undefined && { gid }), ...(executable !== null && { executable }) }
}
