/** A fault at a call of a process to its kernel. `call` counts from the start of the process. */
export type Fault =
  /** The process dies before the call. */
  | { readonly what: 'kill'; readonly who: string; readonly call: number }
  /** SIGSTOP at the call, and SIGCONT after `ms`. */
  | { readonly what: 'stop'; readonly who: string; readonly call: number; readonly ms: number }
  /** From this call on, for `calls` calls, those named in `of` fail. */
  | {
      readonly what: 'lack'
      readonly who: string
      readonly call: number
      readonly calls: number
      readonly code: 'EAGAIN' | 'EMFILE' | 'ENOMEM' | 'ENOSPC'
      readonly of: readonly string[]
    }

/** The calls that can fail for lack of processes, descriptors, memory, space. */
export const LACKS = {
  EAGAIN: ['spawn', 'killAtEnd'],
  EMFILE: [
    'accept',
    'socketPair',
    'dup',
    'memfd',
    'reopenReadOnly',
    'peerPidfd',
    'pidfdOpen',
    'openLockFile',
    'connectUnix',
    'openSync',
    'open',
    'bindSocket',
    'spawn',
    'killAtEnd',
  ],
  ENOMEM: ['memfd', 'createPoll', 'sendMessage', 'spawn', 'killAtEnd'],
  ENOSPC: ['pwrite', 'openLockFile', 'bindSocket'],
} as const satisfies Record<string, readonly string[]>
