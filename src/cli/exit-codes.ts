/** What a command ends with. */
export type ExitCode = keyof typeof EXIT_CODES

/** Told by `--help` and in the documents: scripts count on them. */
export const EXIT_CODES = {
  0: 'done',
  1: 'failed: whoever served before serves on',
  2: 'wrong usage',
  3: 'there is no service',
  4: 'busy: try again later',
  5: 'refused',
} as const
