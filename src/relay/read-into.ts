/** The most that one read brings. */
export const READ_BYTES: number = 64 * 1024

/**
 * All sockets read into this memory, one after the other: each chunk is passed on before the next read. That saves an
 * allocation for each read, and a socket that is paused holds no bytes that nobody knows of.
 */
export const READ_INTO: Buffer = Buffer.allocUnsafeSlow(READ_BYTES)
