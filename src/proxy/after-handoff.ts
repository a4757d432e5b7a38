import type { Member } from '../index.js'

/** How often a process looks whether a handoff is over: no event tells of one that fails. */
const LOOK_MS = 100

/**
 * Returns a function that calls `act`, but during a handoff (phase `frozen`) once after it: if the handoff fails, this process serves on, and what has changed
 * meanwhile must apply here too.
 */
export function afterHandoff(member: Pick<Member, 'phase'>, act: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const look = () => {
    if (member.phase === 'frozen') {
      timer ??= setInterval(look, LOOK_MS).unref()
      return
    }
    clearInterval(timer)
    timer = undefined
    act()
  }
  return look
}
