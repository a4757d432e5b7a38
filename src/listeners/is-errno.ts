import type { NativeError } from '../kernel/index.js'

/** Whether a system call failed with this. */
export function isErrno(error: unknown, code: string): boolean {
  return (error as Partial<NativeError> | null)?.code === code
}
