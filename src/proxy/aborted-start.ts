import type { Member } from '../index.js'

/** Lets a version that does not serve yet leave when `signal` aborts. A version that serves already is not ended: its caller gets the proxy, and can. */
export function leaveAtAbort(
  member: Pick<Member, 'close' | 'phase'>,
  signal: AbortSignal | undefined,
): Disposable {
  const leave = () => {
    if (member.phase === 'joining' || member.phase === 'ready') void member.close()
  }
  if (signal?.aborted) leave()
  else signal?.addEventListener('abort', leave, { once: true })
  return { [Symbol.dispose]: () => signal?.removeEventListener('abort', leave) }
}
