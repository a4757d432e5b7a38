const acts = new Set<() => void>()

function runAll(): void {
  for (const act of acts) act()
}

/**
 * Calls `act` when this process ends by itself, at `process.exit()` or after an uncaught exception, unless the returned function is called before. All
 * of them share one listener: Node warns of more than ten.
 */
export function atExit(act: () => void): () => void {
  if (acts.size === 0) process.on('exit', runAll)
  acts.add(act)
  return () => {
    if (acts.delete(act) && acts.size === 0) process.off('exit', runAll)
  }
}
