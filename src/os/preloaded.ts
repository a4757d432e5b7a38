/** Names the signals that native/preloaded.c keeps blocked, as a number: bit n - 1 is signal n. Not for what a process starts. */
export const HELD_VARIABLE = 'FD_BROKER_HELD_SIGNALS'

/** The environment of a program into which the addon is preloaded, with these signals blocked. Null: the loader cannot be told of this path. */
export function preloadedWith(
  addon: string,
  signals: number,
  before: string | undefined,
): NodeJS.ProcessEnv | null {
  if (/[\s:$]/.test(addon)) return null
  return {
    [HELD_VARIABLE]: `${signals}`,
    // An empty value is a value: the next image gives it back as it was.
    LD_PRELOAD: before === undefined ? addon : `${addon}:${before}`,
  }
}

/** Takes what {@link preloadedWith} has added out of the environment of this process. */
export function forgetPreload(): void {
  const { [HELD_VARIABLE]: held, LD_PRELOAD: files } = process.env
  if (held === undefined) return
  delete process.env[HELD_VARIABLE]
  const end = files?.indexOf(':') ?? -1
  if (end < 0) delete process.env.LD_PRELOAD
  else process.env.LD_PRELOAD = files?.slice(end + 1)
}
