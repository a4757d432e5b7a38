/** `served`: the server is the first one; `joined`: it took over from a predecessor; `left`: it had taken over, and was replaced. */
export type ServerStage = 'served' | 'joined' | 'left'

/** Runs `work` under the V8 flags with which the process was started. */
export type WithUsualFlags = <T>(work: () => T) => T

export type OnServerStage = (stage: ServerStage, withUsualFlags: WithUsualFlags) => void

let listener: OnServerStage = () => {}
let usualFlags: WithUsualFlags = work => work()

/** Sets the function that is called at each stage of a server, for the code that has loaded the library. */
export function onServerStage(onStage: OnServerStage): void {
  listener = onStage
}

/** Called before V8's flags change: `withUsualFlags` undoes it for a while. */
export function changesFlags(withUsualFlags: WithUsualFlags): void {
  usualFlags = withUsualFlags
}

/** Runs `work` under the flags with which the process was started: under others V8 compiles Node's own modules again, which takes long. */
export function underUsualFlags<T>(work: () => T): T {
  return usualFlags(work)
}

/** Calls the function. A server calls this once for each stage. */
export function reportServerStage(stage: ServerStage): void {
  listener(stage, work => usualFlags(work))
}
