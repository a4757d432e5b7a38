/**
 * A daemon is a member of a service of its own, whose holder it is: by it the next daemon takes over. The name by which that one says Hello,
 * and by which operators mean the daemon itself.
 */
export const DAEMON_ITSELF = 'fd-broker.daemon'
