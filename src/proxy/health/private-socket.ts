import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { temporaryFolder } from '../../probing/temporary-folder.js'

/** A Unix socket of only this process, for the command of a health check. Its folder is accessible to this process's user only. */
export class PrivateSocket implements Disposable {
  readonly path: string
  readonly #folder: string
  readonly #server: Server

  private constructor(folder: string, server: Server) {
    this.#folder = folder
    this.path = join(folder, 'socket')
    this.#server = server
  }

  /** Rejects if the folder or the socket cannot be created. */
  static async open(onConnection: (socket: Socket) => void): Promise<PrivateSocket> {
    const folder = temporaryFolder()
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, onConnection)
    const opened = new PrivateSocket(folder, server)
    try {
      chmodSync(folder, 0o700)
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(opened.path, resolve)
      })
      server.on('error', () => {})
      return opened
    } catch (error) {
      opened[Symbol.dispose]()
      throw error
    }
  }

  /** Open connections continue. */
  [Symbol.dispose](): void {
    this.#server.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
