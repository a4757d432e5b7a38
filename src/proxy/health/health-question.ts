import type { Server, Socket } from 'node:net'
import { ASKED, type Asked, type Question } from '../../probing/question.js'
import type { HealthConfig } from '../config/config.js'

/** The entrance to ask, directly instead of through the listener that all versions share. */
export interface HealthTarget {
  readonly entrance: { readonly server: Server; acceptOwn(connection: Socket): void }
  readonly tls: boolean
}

export interface HealthQuestion {
  readonly question: Question
  readonly socket: Disposable | null
}

/** `asks` null: no listener takes requests. Loads only the modules for this kind of question. */
export async function healthQuestion(
  config: HealthConfig,
  asks: HealthTarget | null,
): Promise<HealthQuestion> {
  const asked = askedOf(config)
  switch (asked.kind) {
    case 'http': {
      const { httpQuestion, privateHttpQuestion } = await import('../../probing/http-question.js')
      const { connectionTo } = await import('../../probing/connection-to.js')
      const { url: path } = asked
      if (asks === null || !path.startsWith('/')) return { question: httpQuestion(path), socket: null }
      const { entrance, tls } = asks
      const host = config.host ?? 'localhost'
      const connect = () => connectionTo(entrance.server, socket => entrance.acceptOwn(socket))
      return { question: privateHttpQuestion({ path, host, tls, connect }), socket: null }
    }
    case 'tcp': {
      const { tcpQuestion } = await import('../../probing/question.js')
      return { question: tcpQuestion(asked.host, asked.port), socket: null }
    }
    case 'command': {
      const { commandQuestion } = await import('../../probing/shell.js')
      const { nodeShell } = await import('../../probing/shell.js')
      const { PrivateSocket } = await import('./private-socket.js')
      const socket = asks && (await PrivateSocket.open(connection => asks.entrance.acceptOwn(connection)))
      const env = { FD_BROKER_PID: `${process.pid}`, ...(socket && { FD_BROKER_SOCKET: socket.path }) }
      return { question: commandQuestion(asked.text, nodeShell(env)), socket }
    }
  }
}

function askedOf({ http, tcp, command }: HealthConfig): Asked {
  return (http !== null ? ASKED.http(http) : tcp !== null ? ASKED.tcp(tcp) : ASKED.command(command ?? ''))!
}
