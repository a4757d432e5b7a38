import { readFileSync } from 'node:fs'

const CAP_SYS_PTRACE = 1n << 19n

/** Whether these tests have the right to look into any process. */
export const TRACES_ALL = (effective() & CAP_SYS_PTRACE) !== 0n

/** Whether they may look into a process of their own user that is no descendant of the one that looks. */
export const TRACES_OWN = TRACES_ALL || yamaScope() === 0

function effective(): bigint {
  return BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'}`)
}

/** kernel.yama.ptrace_scope. */
function yamaScope(): number {
  try {
    return Number(readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'latin1'))
  } catch {
    return 0
  }
}
