import { FdbError, type Member } from '../index.js'

/** How often a process looks whether a handoff is over: no event tells of one that fails. */
const LOOK_MS = 100

/**
 * Returns a function that calls `act`, but during a handoff (phase `frozen`) once after it: if the handoff fails, this process serves on, and what has changed
 * meanwhile must apply here too. Calls `act` again if it rejects with ERR_FDB_FENCED, because a handoff has begun in the meantime; `failed` gets other errors,
 * but not that this process has left in the meantime.
 */
export function afterHandoff(
  member: Pick<Member, 'phase'>,
  act: () => Promise<void>,
  failed: (error: unknown) => void,
): () => void {
  let timer: NodeJS.Timeout | undefined
  const lookLater = () => {
    timer ??= setInterval(look, LOOK_MS).unref()
  }
  const look = () => {
    if (member.phase === 'frozen') {
      lookLater()
      return
    }
    clearInterval(timer)
    timer = undefined
    act().catch(error => {
      if (FdbError.is(error) && error.code === 'ERR_FDB_FENCED') lookLater()
      else if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_CLOSED') failed(error)
    })
  }
  return look
}
