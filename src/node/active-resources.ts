interface ActiveHandle {
  /** Node sets it for standard output and error, not for standard input, which keeps a process alive. */
  readonly _isStdio?: true
  readonly isTTY?: boolean
}

/**
 * Returns the resources that keep the event loop of this process alive, by Node's names. The standard output and error, which Node lists
 * when the program has used them, keep no process alive.
 */
export function activeResources(): Record<string, number> {
  const resources: Record<string, number> = {}
  for (const type of process.getActiveResourcesInfo()) resources[type] = (resources[type] ?? 0) + 1
  for (const { isTTY } of activeOutputs()) {
    const type = isTTY ? 'TTYWrap' : 'PipeWrap'
    const rest = (resources[type] ?? 0) - 1
    if (rest > 0) resources[type] = rest
    else delete resources[type]
  }
  return resources
}

/** Returns the streams of standard output and error that are open. A read of `process.stdout` would open it. */
function activeOutputs(): ActiveHandle[] {
  const { _getActiveHandles: list } = process as { _getActiveHandles?(): ActiveHandle[] }
  return list?.call(process).filter(({ _isStdio }) => _isStdio) ?? []
}
