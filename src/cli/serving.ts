/** Does something with V8's flags as they were when the process was started. */
export type WithUsualFlags = <T>(work: () => T) => T

/** What has become of a server: it serves, as the first or after another; or it is about to end, and another serves in its place. */
export type Turn = 'served' | 'joined' | 'left'

export type OnTurn = (turn: Turn, withUsualFlags: WithUsualFlags) => void

let told: OnTurn = () => {}

/** Has somebody told what becomes of a server that this process is. */
export function onTurn(tell: OnTurn): void {
  told = tell
}

/** A command says each once. */
export function tellTurn(turn: Turn, withUsualFlags: WithUsualFlags = work => work()): void {
  told(turn, withUsualFlags)
}
