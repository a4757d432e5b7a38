import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { temporaryFolder } from '../../probing/temporary-folder.js'

/** A path at which this process alone answers, for commands: in a folder that is its user's alone. */
export class PrivateSocket implements Disposable {
  readonly path: string
  readonly #folder: string
  readonly #server: Server

  private constructor(folder: string, server: Server) {
    this.#folder = folder
    this.path = join(folder, 'socket')
    this.#server = server
  }

  /** `take` is given what connects there. Rejects when there is no room for it. */
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

  /** Connections that came go on. */
  [Symbol.dispose](): void {
    this.#server.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
