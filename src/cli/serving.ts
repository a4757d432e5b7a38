import { keepLastWords } from '../process/last-words.js'

/** Does something with V8's flags as they were when the process was started. */
export type WithUsualFlags = <T>(work: () => T) => T

let told: (withUsualFlags: WithUsualFlags) => void = () => {}

/** Has somebody told when a server that this process is serves. */
export function onServing(tell: (withUsualFlags: WithUsualFlags) => void): void {
  told = tell
}

/** A command says it once. */
export function serves(withUsualFlags: WithUsualFlags = work => work()): void {
  keepLastWords()
  told(withUsualFlags)
}
