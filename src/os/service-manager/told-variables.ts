/** An environment in which no descriptors are passed, see sd_listen_fds(3). */
export const NONE_PASSED: Readonly<NodeJS.ProcessEnv> = {
  LISTEN_FDS: undefined,
  LISTEN_FDNAMES: undefined,
  LISTEN_PID: undefined,
  LISTEN_PIDFDID: undefined,
}

/** Without what a service manager has told a process: it is meant for that one, not for those that it starts. */
export const NOTHING_TOLD: Readonly<NodeJS.ProcessEnv> = {
  ...NONE_PASSED,
  NOTIFY_SOCKET: undefined,
  WATCHDOG_USEC: undefined,
  WATCHDOG_PID: undefined,
  FDSTORE: undefined,
}
