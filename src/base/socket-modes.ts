/**
 * Permission bits of the Unix sockets that fd-broker creates for itself. There is one more, that of a health check: see {@link FOLDER_MODES}. A
 * listener's path has the mode in its address (`?mode=0660`), by default that of the umask. Abstract sockets have none.
 */
export const SOCKET_MODES = {
  /** The control socket of a service, and of a daemon whose rules name no other user: root and its own user may connect. */
  control: 0o600,
  /** The control socket of a daemon whose rules name other users: all may connect, and the daemon checks each request (`src/daemon/policy`). */
  sharedControl: 0o666,
  /** The notify socket of a version that runs as the supervisor's user. */
  notify: 0o600,
  /** The notify socket of a version that root starts, which may change its user before it reports: all may send, and `mayReport()` checks the sender. */
  sharedNotify: 0o666,
} as const

/** Permission bits of the folders of these sockets. */
export const FOLDER_MODES = {
  /**
   * The folder of a control path that does not exist yet, of a notify socket, and of the socket on which the proxy answers a health check of the kind `command`: that
   * socket has the mode of the umask, because no other user reaches it.
   */
  private: 0o700,
  /** The folder of a shared notify socket: other users reach the socket, but cannot list the folder. */
  sharedNotify: 0o711,
} as const
